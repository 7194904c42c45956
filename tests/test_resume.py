"Ctrl-C during `mri-diffusion train`, and the same command again"

import os
import re
import signal
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

START = [
    sys.executable,
    '-c',
    'import sys; from mri_diffusion.app.cli import main; sys.exit(main())',
]


def words(made, out):
    return [
        'train',
        'unet',
        made / 'noisy.nii.gz',
        '--clean',
        made / 'clean.nii.gz',
        '--out',
        out,
        '--preset',
        'tiny',
        '--steps',
        60,
        '--seed',
        3,
        '--device',
        'cpu',
    ]


def interrupted(command):
    "Start, send Ctrl-C once three steps are done; (exit code, stdout, stderr)"
    run = subprocess.Popen(
        [*START, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | dict(TQDM_MININTERVAL='0.01', OMP_NUM_THREADS='1'),
    )
    seen = b''
    while not re.search(rb'\b([3-9]|\d\d)/60', seen):
        more = os.read(run.stderr.fileno(), 4096)
        assert more, seen.decode()
        seen += more
    run.send_signal(signal.SIGINT)
    out, rest = run.communicate(timeout=120)
    return run.returncode, out.decode(), (seen + rest).decode()


def test_interrupted_training_goes_on_and_ends_with_the_same_weights(made, cli, tmp_path):
    code, out, err = interrupted(words(made, tmp_path / 'a'))
    lines = [line.split('\r')[-1] for line in err.splitlines()]
    said = [line for line in lines if 'mri-diffusion' in line]
    assert (
        code == 130
        and not out
        and len(said) == 1
        and 'interrupted after step' in said[0]
        and 'checkpoint is saved' in said[0]
        and 'Traceback' not in err
    )
    left = {
        p.relative_to(tmp_path / 'a').as_posix() for p in (tmp_path / 'a').rglob('*') if p.is_file()
    }
    assert (
        'training/checkpoint/train.json' in left and not {'model.safetensors', 'config.json'} & left
    )
    step = int(re.search(r'after step (\d+)', said[0])[1])
    assert 3 <= step < 60

    got = cli('denoise', made / 'noisy.nii.gz', tmp_path / 'x.nii.gz', '--model', tmp_path / 'a')
    assert got.code == 2 and 'not a finished model' in got.err

    again, whole = cli(*words(made, tmp_path / 'a')), cli(*words(made, tmp_path / 'b'), '--quiet')
    assert again.code == 0 and whole.code == 0 and not whole.err
    a, b = (load_file(tmp_path / n / 'model.safetensors') for n in 'ab')
    assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)
    assert (
        not (tmp_path / 'a/training/checkpoint').exists()
        and (tmp_path / 'a/training/metrics.csv').is_file()
    )
    metrics = [
        [
            line.split(',')[:2]
            for line in (tmp_path / n / 'training/metrics.csv').read_text().splitlines()
        ]
        for n in 'ab'
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 61


def test_fresh_and_force_replace(files, cli):
    train = [
        'train',
        'unet',
        files / 'noisy.nii.gz',
        '--clean',
        files / 'clean.nii.gz',
        '--out',
        files / 'model',
        '--preset',
        'tiny',
    ]
    before = (files / 'model/model.safetensors').read_bytes()
    got = cli(*train, '--steps', 3)
    assert (
        got.code == 0
        and 'has finished before' in got.out
        and (files / 'model/model.safetensors').read_bytes() == before
    )
    assert (
        cli(*train, '--steps', 2).code == 2
        and (files / 'model/model.safetensors').read_bytes() == before
    )
    assert (
        cli(*train, '--steps', 2, '--force').code == 0
        and (files / 'model/model.safetensors').read_bytes() != before
    )
    assert (
        cli(*train, '--steps', 3, '--fresh').code == 0
        and (files / 'model/model.safetensors').read_bytes() == before
    )
    assert cli(*train, '--steps', 3, '--seed', 1).code == 2
    got = cli(
        'train',
        'unet',
        files / 'clean.nii.gz',
        '--clean',
        files / 'clean.nii.gz',
        '--out',
        files / 'model',
        '--preset',
        'tiny',
        '--steps',
        3,
    )
    assert got.code == 2 and 'other scans' in got.err


def test_a_second_training_that_is_interrupted_does_not_pass_for_the_first(files, cli, monkeypatch):
    from mri_diffusion.app.denoiser import Denoiser

    train = [
        'train',
        'unet',
        files / 'noisy.nii.gz',
        '--clean',
        files / 'clean.nii.gz',
        '--out',
        files / 'model',
        '--preset',
        'tiny',
        '--steps',
        2,
    ]

    def stop(*a, **k):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Denoiser, 'fit', stop)
        assert cli(*train, '--force').code == 130
    got = cli(*train)
    assert got.code == 0 and 'trained' in got.out and 'finished before' not in got.out


def test_a_checkpoint_holds_nothing_that_is_unpickled_freely(tmp_path):
    "What accelerate calls a custom checkpoint is unpickled without `weights_only`"
    import torch

    from mri_diffusion.core import InputError
    from mri_diffusion.learn.train import fit

    def loss(net, batch):
        return net(batch['x']).square().mean()

    def go_on(steps=4):
        torch.manual_seed(0)
        net, data = torch.nn.Linear(2, 1), [dict(x=torch.ones(2))] * 8
        how = dict(batch=2, checkpoint_every=1, quiet=True, device='cpu')
        return fit(net, loss, data, steps, 1e-2, tmp_path, **how)

    go_on()
    checkpoint = tmp_path / 'checkpoint'
    assert not list(checkpoint.glob('custom_checkpoint*'))
    (checkpoint / 'average.safetensors').unlink()
    with pytest.raises(InputError, match='earlier version'):
        go_on()
