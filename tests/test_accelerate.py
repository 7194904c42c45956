"Two processes that share each batch end with the weights of one process"

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mri_diffusion.app.experiments import run_experiment, sweep
from mri_diffusion.core import InputError

SCRIPT = """import os, sys
import numpy as np, torch
from mri_diffusion.scans.patches import PatchDataset
from mri_diffusion.nets.unet import build_network
from mri_diffusion.learn.train import fit
rng = np.random.default_rng(0)
clean = rng.random((20, 20, 20), np.float32)
noisy = clean + .1*rng.standard_normal(clean.shape, np.float32)
data, net = PatchDataset([dict(noisy=noisy, clean=clean)], (8, 8, 8), 64, seed=0), build_network('unet', 'tiny', seed=0)
def objective(model, batch): return (model(batch['noisy']) - batch['clean']).square().mean()
history = fit(net, objective, data, 4, 1e-3, batch=4, device='cpu', seed=0, quiet=True)
found = dict(net=net.state_dict(), world=int(os.environ.get('WORLD_SIZE', 1)))
if os.environ.get('RANK', '0') == '0':
    torch.save(found | dict(loss=history.loss.tolist()), sys.argv[1])
"""


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def launch(command, processes=2):
    """Run a command by `accelerate launch`, on the CPU

    `--cpu` alone starts a single process; `--multi_gpu` starts two, and `device='cpu'` keeps both on
    the CPU.
    """
    start = f"""-m accelerate.commands.launch --multi_gpu --num_processes {processes}
        --num_machines 1 --mixed_precision no --dynamo_backend no
        --main_process_port {free_port()}""".split()
    return subprocess.run(
        [sys.executable, *(start if processes > 1 else []), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | dict(OMP_NUM_THREADS='1'),
    )


def test_two_processes_train_as_one(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    found = {}
    for name, processes in dict(one=1, two=2).items():
        done = launch([tmp_path / 'script.py', tmp_path / name], processes)
        assert done.returncode == 0, done.stderr[-2000:]
        found[name] = torch.load(tmp_path / name, weights_only=True)
    assert (found['one']['world'], found['two']['world']) == (1, 2)
    torch.testing.assert_close(
        torch.tensor(found['two']['loss']), torch.tensor(found['one']['loss']), rtol=1e-4, atol=1e-7
    )
    for name, w in found['one']['net'].items():
        torch.testing.assert_close(found['two']['net'][name], w, rtol=0, atol=1e-5)


@pytest.fixture(scope='module')
def pretrain(tmp_path_factory):
    "Makes a run of the recipe of the shipped weights: (its folder, what was printed)"
    tmp = tmp_path_factory.mktemp('pretrain')
    command = Path(sys.executable).parent / 'mri-diffusion'

    def run(name, processes, **params):
        words = [w for k, v in params.items() for w in ('-p', k, v)]
        call = [command, 'run', 'pretrain', *words, '--out', tmp / name, '--quiet']
        done = launch(call, processes)
        assert done.returncode == 0, done.stderr[-2000:]
        return tmp / name, done.stdout

    return run


def distance(a, b):
    "Between the networks of two runs"
    x, y = (load_file(f / 'state.safetensors') for f in (a, b))
    return sum(float((x[k] - y[k]).square().sum()) for k in x if k.startswith('net.')) ** 0.5


def test_two_processes_share_the_recipe_of_the_shipped_weights(pretrain):
    "As near to one process as sums in another order; far from one that sees its own patches only"
    one, _ = pretrain('one', 1, steps=4)
    two, said = pretrain('two', 2, steps=4)
    half, _ = pretrain('half', 1, steps=4, batch=1)
    assert distance(one, two) < 0.05 * distance(one, half)
    assert '| processes | 2 |' in (two / 'card.md').read_text() and said.count('sha256') == 1
    losses = [pd.read_csv(f / 'loss.csv').loss for f in (one, two)]
    assert np.allclose(*losses, rtol=1e-3) and not list(two.glob('.running*'))


def test_two_processes_go_on_from_a_state(pretrain):
    begun, _ = pretrain('begun', 1, steps=2, anneal=-1)
    whole, _ = pretrain('whole', 1, steps=4, anneal=-1)
    both, _ = pretrain('both', 2, steps=4, anneal=-1, start=begun / 'state.safetensors')
    assert distance(whole, both) < 0.05 * distance(whole, begun)


def test_an_experiment_runs_in_one_process(tmp_path, monkeypatch):
    "Two would do the same work and write the same files"
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='compare: an experiment runs in one process, not in 2'):
        run_experiment('compare', tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_sweep_is_refused_in_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='a sweep starts its own processes'):
        sweep('pretrain', [dict(seed=0)], tmp_path / 'runs')


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    command = Path(sys.executable).parent / 'mri-diffusion'
    call = [command, 'run', 'pretrain', '-p', 'batch', '3', '--out', tmp_path / 'a', '--quiet']
    done = launch(call)
    assert done.returncode != 0 and 'batch 3: cannot be shared by 2 processes' in done.stderr
