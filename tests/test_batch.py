"A method that learns from the scan itself, small and made here, through the whole command line; and folders of scans"

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mri_diffusion.app.batch import batch_denoise, run_batch
from mri_diffusion.core import InputError, read_json
from mri_diffusion.learn.train import fit
from mri_diffusion.methods import registry
from mri_diffusion.methods.method import FACTS, Method
from mri_diffusion.scans.nifti import Scan, read_nifti

told, steps_done = [], []


# Every volume from all others by one weight each, learned on the scan itself
def others(x, net):
    return x @ (net.weight * (1 - torch.eye(x.shape[-1], device=x.device))).T


def loss_others(net, batch):
    steps_done.append(1)
    if len(steps_done) == int(os.environ.get('OTHERS_STOP', 0)):
        os.kill(os.getpid(), signal.SIGINT)
    return ((others(batch['x'], net) - batch['x']) ** 2).mean()


def build_others(config, learned):
    net = torch.nn.Linear(learned['volumes'], learned['volumes'], bias=False)
    torch.nn.init.constant_(net.weight, 1 / learned['volumes'])
    return net


def fit_others(noisy, clean, config, facts, folder=None, **run):
    assert clean is None and len(noisy) == len(facts) and all(set(f) == set(FACTS) for f in facts)
    told.append(facts)
    if len({s.shape[-1] for s in noisy}) != 1:
        raise InputError('others: scans of different length; give scans of one protocol')
    n = noisy[0].shape[-1]
    x = torch.cat(
        [
            torch.from_numpy(s[f['mask'] if f['mask'] is not None else s.min(-1) > 0] / s.max())
            for s, f in zip(noisy, facts)
        ]
    )
    net = build_others(config, dict(volumes=n))
    history = fit(
        net,
        loss_others,
        [dict(x=v) for v in x],
        config['steps'],
        3e-2,
        folder,
        batch=64,
        ema=0,
        **run,
    )
    return (
        net,
        dict(
            volumes=n,
            bvals=facts[0]['bvals'],
            sigma=facts[0]['sigma'] if np.ndim(facts[0]['sigma']) == 0 else 'map',
        ),
        history,
    )


def denoise_others(
    data, sigma, bvals=None, config=None, net=None, learned=None, mask=None, **facts
):
    if data.shape[-1] != learned['volumes'] or not np.array_equal(bvals, learned['bvals']):
        raise InputError(
            f'others: trained on b = {learned["bvals"]}; this scan has another protocol, train it '
            f'anew'
        )
    with torch.no_grad():
        denoised = (
            config['weight'] * others(torch.from_numpy(data), net.cpu()).numpy()
            + (1 - config['weight']) * data
        )
    error = (data - denoised).reshape(-1, data.shape[-1]).std(0)
    fig, ax = plt.subplots()
    ax.imshow(net.weight.detach())
    return dict(
        denoised=denoised,
        std=np.broadcast_to(error, data.shape),
        sigma_found=error,
        notes=['others: predicted'],
        pictures={'weights': fig},
    )


OTHERS = Method(
    'others',
    'In tests',
    'scan',
    'nothing',
    denoise_others,
    dims=(4,),
    gives_std=True,
    presets={p: dict(steps=8, weight=1.0) for p in ('tiny', 'laptop', 'paper')},
    fit=fit_others,
    build=build_others,
    at_inference=('weight',),
)


def register():
    registry.methods(), registry._registry.update(others=OTHERS)


@pytest.fixture
def own(monkeypatch):
    "The method is known; nothing has been told to it yet"
    registry.methods()
    monkeypatch.setitem(registry._registry, 'others', OTHERS)
    monkeypatch.setattr(sys.modules[__name__], 'told', [])
    monkeypatch.setattr(sys.modules[__name__], 'steps_done', [])


DENOISE = ['--method', 'others', '--preset', 'tiny', '--device', 'cpu']


def series_mask(files):
    scan = Scan.load(files / 'series.nii.gz')
    scan.with_data(np.float32(scan.b0 > np.median(scan.b0))).save(
        files / 'smask.nii.gz', force=True
    )
    return files / 'smask.nii.gz'


def moved(files):
    "The series under another name, its table elsewhere under other names"
    scan = Scan.load(files / 'series.nii.gz')
    scan.save(files / 'bare.nii.gz')
    for e in ('bval', 'bvec'):
        (files / f'bare.{e}').rename(files / f'table.{e}')
    return files / 'bare.nii.gz', ['--bval', files / 'table.bval', '--bvec', files / 'table.bvec']


def test_it_trains_on_the_scan_and_gives_all_back(own, files, cli):
    (bare, table), mask = moved(files), series_mask(files)
    paths = {o: files / f'{o}.nii.gz' for o in ('residual', 'noise-map', 'std')}
    command = [
        'denoise',
        bare,
        files / 'o.nii.gz',
        *DENOISE,
        *table,
        '--mask',
        mask,
        '--sigma',
        3.5,
        '--seed',
        4,
        '--report',
        files / 'o.html',
        '--json',
    ]
    got = cli(*command, *(w for o, p in paths.items() for w in (f'--{o}', p)))
    assert got.code == 0, got.err
    scan, inside, out, ((fact,),) = (
        Scan.load(files / 'series.nii.gz'),
        Scan.load(mask).data > 0,
        Scan.load(files / 'o.nii.gz'),
        told,
    )
    assert (
        np.array_equal(fact['bvals'], scan.bvals)
        and np.allclose(fact['bvecs'], scan.bvecs)
        and np.array_equal(fact['mask'], inside)
        and fact['sigma'] == 3.5
        and fact['voxel_size'] == scan.voxel_size
    )
    std = Scan.load(paths['std']).data
    assert (
        std.shape == scan.shape
        and (std[inside] > 0).all()
        and not std[~inside].any()
        and np.allclose(read_nifti(paths['noise-map'])[0], 3.5)
    )
    assert (
        np.array_equal(out.data[~inside], scan.data[~inside])
        and np.allclose(Scan.load(paths['residual']).data, scan.data - out.data, atol=1e-4)
        and np.abs(out.data - scan.data)[inside].mean() > 0
    )
    page = (files / 'o.html').read_text()
    assert (
        'How the method worked' in page
        and 'alt="weights"' in page
        and 'uncertainty (std)' in page
        and 'others: predicted' in page
    )
    assert (
        read_json(files / 'o.json')['Seed'] == 4
        and 'others: predicted' in json.loads(got.out)['notes']
        and read_json(files / 'o_others/config.json')['learned']['sigma'] == 3.5
    )
    assert (
        cli(*command, '--force').code == 0
        and len(told) == 1
        and np.array_equal(Scan.load(files / 'o.nii.gz').data, out.data)
    )


def test_a_finished_model_denoises_another_scan_without_training(own, files, cli):
    series, model = files / 'series.nii.gz', files / 'kept'
    assert (
        cli(
            'denoise', series, files / 'a.nii.gz', *DENOISE, '--model', model, '--set', 'steps', 4
        ).code
        == 0
        and len(told) == 1
    )
    scan = Scan.load(series)
    scan.with_data(scan.data + np.random.default_rng(0).normal(0, 3, scan.shape)).save(
        files / 'twin.nii.gz'
    )
    for words in (
        [],
        ['--method', 'others'],
        [*DENOISE, '--set', 'steps', 4],
        ['--method', 'others', '--set', 'weight', 0.5],
    ):
        got = cli(
            'denoise',
            files / 'twin.nii.gz',
            files / 'b.nii.gz',
            '--model',
            model,
            *words,
            '--force',
        )
        assert got.code == 0 and len(told) == 1, got.err
    half = Scan.load(files / 'b.nii.gz').data
    cli('denoise', files / 'twin.nii.gz', files / 'b.nii.gz', '--model', model, '--force')
    twin = Scan.load(files / 'twin.nii.gz').data
    assert np.allclose(half, (Scan.load(files / 'b.nii.gz').data + twin) / 2, atol=1e-3)
    Scan.from_array(scan.data[..., :5], scan.affine, scan.bvals[:5], scan.bvecs[:5]).save(
        files / 'short.nii.gz'
    )
    for words, said in (
        (
            ['denoise', files / 'short.nii.gz', files / 'c.nii.gz', '--model', model],
            'another protocol',
        ),
        (
            [
                'denoise',
                series,
                files / 'c.nii.gz',
                '--method',
                'others',
                '--model',
                model,
                '--set',
                'steps',
                9,
            ],
            'steps 4, not 9',
        ),
        (
            ['denoise', series, files / 'c.nii.gz', '--model', model, '--preset', 'paper'],
            'preset tiny',
        ),
    ):
        got = cli(*words)
        assert (
            got.code == 2
            and said in got.err
            and got.err.count('\n') == 1
            and not (files / 'c.nii.gz').exists()
        ), got
    (model / 'training/settings.json').unlink()  # a model that was copied without its training
    assert (
        cli('denoise', series, files / 'c.nii.gz', *DENOISE, '--model', model).code == 0
        and len(told) == 1
    )


def test_train_takes_the_scan_and_its_table(own, files, cli):
    (bare, table), mask = moved(files), series_mask(files)
    command = [
        'train',
        'others',
        bare,
        '--out',
        files / 'm',
        '--preset',
        'tiny',
        *table,
        '--mask',
        mask,
        '--sigma',
        2,
    ]
    got = cli(*command)
    assert (
        got.code == 0
        and 'trained' in got.out
        and told[0][0]['sigma'] == 2
        and told[0][0]['mask'].sum() == (Scan.load(mask).data > 0).sum()
    ), got.err
    assert 'finished before' in cli(*command).out and len(told) == 1
    got = cli(*command[:-2])
    assert got.code == 2 and 'noise level' in got.err
    assert (
        cli('denoise', bare, files / 'o.nii.gz', '--model', files / 'm', *table).code == 0
        and len(told) == 1
    )


@pytest.mark.parametrize(
    'words, said',
    [
        (
            ['train', 'others', 'series.nii.gz', '--clean', 'series_clean.nii.gz', '--out', 'x'],
            'without --clean',
        ),
        (['train', 'others', 'noisy.nii.gz', '--out', 'x'], 'it takes series'),
        (
            [
                'train',
                'others',
                'series.nii.gz',
                'series.nii.gz',
                '--bval',
                'series.bval',
                '--out',
                'x',
            ],
            '--bval with 2 scans',
        ),
        (['train', 'others', 'series.nii.gz', '--bval', 'no.bval', '--out', 'x'], 'no such file'),
        (['denoise', 'noisy.nii.gz', 'x.nii.gz', '--method', 'others'], 'it takes series'),
        (['denoise', 'series.nii.gz', 'x.nii.gz', '--method', 'others', '--sigma', '-1'], 'sigma'),
        (
            ['denoise', 'series.nii.gz', 'x.nii.gz', '--method', 'others', '--bias-field', 'away'],
            'keep, correct, restore',
        ),
        (
            [
                'denoise',
                'series.nii.gz',
                'x.nii.gz',
                '--method',
                'others',
                '--model',
                'noisy.nii.gz',
            ],
            'is a file',
        ),
    ],
)
def test_what_it_refuses(own, files, cli, monkeypatch, words, said):
    monkeypatch.chdir(files)
    got = cli(*words)
    assert (
        got.code == 2
        and said in got.err
        and got.err.count('\n') == 1
        and not told
        and not list(files.glob('x*'))
    ), got


def test_another_scan_under_the_same_name(own, files, cli):
    "A model beside OUT that was trained on another scan is neither used nor replaced unasked"
    assert cli('denoise', files / 'series.nii.gz', files / 'o.nii.gz', *DENOISE).code == 0
    (files / 'o.nii.gz').unlink(), [p.unlink() for p in files.glob('o.*')]
    got = cli('denoise', files / 'series_clean.nii.gz', files / 'o.nii.gz', *DENOISE)
    assert got.code == 2 and 'other scans' in got.err and len(told) == 1
    assert (
        cli('denoise', files / 'series_clean.nii.gz', files / 'o.nii.gz', *DENOISE, '--force').code
        == 0
        and len(told) == 2
    )


def test_interrupted_by_ctrl_c_it_goes_on_to_the_same_result(own, files, cli):
    start = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_batch; '
        'test_batch.register(); from mri_diffusion.app.cli import main; sys.exit(main())'
    )
    words = lambda name: [
        'denoise',
        files / 'series.nii.gz',
        files / f'{name}.nii.gz',
        *DENOISE,
        '--std',
        files / f'{name}_std.nii.gz',
    ]
    run = subprocess.run(
        [sys.executable, '-c', start, *map(str, words('a')), '--quiet'],
        capture_output=True,
        text=True,
        env=os.environ | dict(OTHERS_STOP='3', OMP_NUM_THREADS='1'),
    )
    assert (
        run.returncode == 130
        and run.stderr.count('\n') == 1
        and 'interrupted after step 3' in run.stderr
        and 'same command again continues' in run.stderr
        and not run.stdout
    ), run
    assert (
        not list(files.glob('a*.nii.gz'))
        and not (files / 'a_others/config.json').exists()
        and (files / 'a_others/training/checkpoint/train.json').is_file()
    )
    assert cli(*words('a')).code == 0 and len(steps_done) == 5
    assert cli(*words('b')).code == 0 and len(steps_done) == 13
    for name in ('{}.nii.gz', '{}_std.nii.gz', '{}_others/model.safetensors'):
        assert (files / name.format('a')).read_bytes() == (files / name.format('b')).read_bytes(), (
            name
        )
    assert not (files / 'a_others/training/checkpoint').exists()


def test_bias_field(own, files, cli):
    pytest.importorskip('SimpleITK')
    clean = Scan.load(files / 'series.nii.gz')
    ramp = np.linspace(1.5, 0.5, clean.shape[0], dtype=np.float32)[:, None, None, None]
    scan = clean.with_data(clean.data * ramp)
    scan.save(files / 'uneven.nii.gz')
    for mode in ('keep', 'correct', 'restore'):
        got = cli(
            'denoise',
            files / 'uneven.nii.gz',
            files / f'{mode}.nii.gz',
            *DENOISE,
            '--bias-field',
            mode,
            '--sigma',
            4,
            '--mask',
            series_mask(files),
            *(
                w
                for o in ('residual', 'noise-map', 'std')
                for w in (f'--{o}', files / f'{mode}_{o}.nii.gz')
            ),
        )
        assert got.code == 0 and ('bias field' in got.err) == (mode != 'keep'), got.err
    load = lambda mode, what='': read_nifti(files / f'{mode}{what}.nii.gz')[0]
    field = load('correct', '_noise-map') / 4
    field = (1 / field)[..., None] if field.ndim == 3 else 1 / field
    assert (
        len(told) == 3
        and np.ndim(told[1][0]['sigma']) == 3
        and read_json(files / 'correct.json')['BiasField'] == 'correct'
        and read_json(files / 'restore.json')['BiasField'] == 'restore'
        and 'BiasField' not in read_json(files / 'keep.json')
    )
    inside = Scan.load(files / 'smask.nii.gz').data > 0
    assert np.allclose(
        load('restore'), load('correct') * field, rtol=1e-3, atol=1e-2
    ) and np.allclose(
        load('restore', '_std'), load('correct', '_std') * field, rtol=1e-3, atol=1e-3
    )
    assert (
        np.allclose(load('restore') + load('restore', '_residual'), scan.data, atol=1e-2)
        and np.allclose(load('restore', '_noise-map'), 4, rtol=1e-3)
        and np.array_equal(load('restore')[~inside], scan.data[~inside])
    )
    left, right = inside.copy(), inside.copy()
    left[7:], right[:7] = False, False
    uneven = {
        m: np.median(load(m)[left]) / np.median(load(m)[right])
        for m in ('keep', 'correct', 'restore')
    }
    assert (
        abs(np.log(uneven['correct'])) < 0.5 * abs(np.log(uneven['keep']))
        and abs(uneven['restore'] / uneven['keep'] - 1) < 0.15
    )


def test_an_answer_that_cannot_be_used_is_a_failure(own, files, cli, monkeypatch):
    good = OTHERS.denoise
    wrong = dict(
        shape=dict(denoised=np.zeros((2, 2, 2))),
        nan=dict(std=np.nan),
        key=dict(sdt=1),
        picture=dict(pictures=dict(a=b'GIF89a..')),
        std_shape=dict(std=np.zeros(3)),
    )
    for name, change in wrong.items():

        def spoilt(data, *a, name=name, change=change, **k):
            broken = {'std': np.full(data.shape, np.nan)} if name == 'nan' else change
            return good(data, *a, **k) | broken

        monkeypatch.setattr(OTHERS, 'denoise', spoilt)
        got = cli(
            'denoise', files / 'series.nii.gz', files / 'o.nii.gz', *DENOISE, '--model', files / 'm'
        )
        assert (
            got.code == 1
            and got.err.count('\n') == 1
            and 'unexpected' not in got.err
            and not (files / 'o.nii.gz').exists()
        ), (name, got)


# ---- folders of scans
@pytest.fixture
def study(files):
    "BIDS: two people at two field strengths with a series each, and one whose file is cut off"
    scan, bids = Scan.load(files / 'series.nii.gz'), files / 'study'
    rng = np.random.default_rng(1)
    for sub in ('01', '02'):
        for ses, tesla in (('a', 0.064), ('b', 3)):
            noisy = scan.with_data(np.abs(scan.data + rng.normal(0, 2, scan.shape)))
            noisy.save(
                bids / f'sub-{sub}/ses-{ses}/dwi/sub-{sub}_ses-{ses}_dwi.nii.gz',
                sidecar=dict(MagneticFieldStrength=tesla),
            )
    whole = (files / 'series.nii.gz').read_bytes()
    broken = bids / 'sub-03/dwi/sub-03_dwi.nii.gz'
    broken.parent.mkdir(parents=True)
    broken.write_bytes(whole[: len(whole) // 2])
    Scan.load(files / 'noisy.nii.gz').save(bids / 'sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz')
    return bids


def statuses(out):
    return [
        line.split()[-2] if line.split()[-1][0].isdigit() else line.split()[-1]
        for line in out.splitlines()[1:-1]
    ]


def test_batch_of_self_trained_models(own, study, cli, tmp_path):
    out = tmp_path / 'der'
    command = ['batch', study, out, 'participant', *DENOISE, '--quiet']
    got = cli(*command, '--also', 'std', 'report')
    assert (
        got.code == 2
        and got.err.count('\n') == 1
        and 'sub-03_dwi.nii.gz: truncated' in got.err
        and statuses(got.out) == ['done'] * 4 + ['failed']
        and '0.064 T' in got.out
        and '4 done, 1 failed' in got.out
    ), got
    here = out / 'sub-01/ses-b/dwi'
    assert {p.name for p in here.iterdir() if p.is_file()} == {
        f'sub-01_ses-b_desc-{e}'
        for e in (
            'denoised_dwi.nii.gz',
            'denoised_dwi.json',
            'denoised_dwi.bval',
            'denoised_dwi.bvec',
            'std_dwi.nii.gz',
            'std_dwi.json',
            'std_dwi.bval',
            'std_dwi.bvec',
            'denoised_dwi.html',
        )
    }
    assert (
        len(told) == 4
        and read_json(out / 'dataset_description.json')['DatasetType'] == 'derivative'
        and (out / 'summary.csv').read_text().count('\n') == 6
    )
    alone = tmp_path / 'alone.nii.gz'
    assert (
        cli('denoise', study / 'sub-01/ses-b/dwi/sub-01_ses-b_dwi.nii.gz', alone, *DENOISE).code
        == 0
        and alone.read_bytes() == (here / 'sub-01_ses-b_desc-denoised_dwi.nii.gz').read_bytes()
    )
    again = cli(*command, '--also', 'std', 'report')
    assert (
        again.code == 2 and statuses(again.out) == ['skipped'] * 4 + ['failed'] and len(told) == 5
    )
    other = cli(*command)
    assert (
        other.code == 2
        and 'was made with also' in other.err
        and other.err.count('\n') == 1
        and not other.out
    )
    one = cli(
        *command[:-1],
        '--also',
        'std',
        'report',
        '--participant-label',
        '01',
        'sub-02',
        '--json',
        '--quiet',
    )
    assert one.code == 0 and [r['status'] for r in json.loads(one.out)] == ['skipped'] * 4


def test_batch_with_one_model_a_field_strength(own, study, cli, tmp_path):
    command = [
        'batch',
        study,
        tmp_path / 'd',
        'participant',
        *DENOISE,
        '--participant-label',
        '01',
        '02',
        '--quiet',
    ]
    refused = cli(*command, '--model', tmp_path / 'm')
    assert refused.code == 2 and '--per-field' in refused.err and not told
    got = cli(*command, '--per-field')
    assert (
        got.code == 0
        and [len(f) for f in told] == [2, 2]
        and {p.name for p in (tmp_path / 'd/models').iterdir()}
        == {'field-3T_dwi_b0x2_b1000x6', 'field-64mT_dwi_b0x2_b1000x6'}
    ), got.err
    assert cli(*command, '--per-field').code == 0 and len(told) == 2
    assert (
        cli(
            'batch',
            study,
            tmp_path / 'e',
            'participant',
            *DENOISE,
            '--participant-label',
            '02',
            '--model',
            tmp_path / 'd/models/field-3T_dwi_b0x2_b1000x6',
        ).code
        == 0
        and len(told) == 2
    )


def test_interrupted_batch_goes_on(own, study, cli, tmp_path, monkeypatch):
    command = [
        'batch',
        study,
        tmp_path / 'd',
        'participant',
        *DENOISE,
        '--participant-label',
        '01',
        '--quiet',
    ]
    monkeypatch.setenv('OTHERS_STOP', '11')  # the third step of the second scan
    got = cli(*command)
    assert (
        got.code == 130
        and got.err.count('\n') == 1
        and 'same command again' in got.err
        and not got.out
    ), got
    monkeypatch.delenv('OTHERS_STOP')
    got = cli(*command)
    assert got.code == 0 and statuses(got.out) == ['skipped', 'done'] and len(steps_done) == 16
    assert (
        cli(
            'denoise',
            study / 'sub-01/ses-b/dwi/sub-01_ses-b_dwi.nii.gz',
            tmp_path / 'x.nii.gz',
            *DENOISE,
        ).code
        == 0
    )
    assert (tmp_path / 'x.nii.gz').read_bytes() == (
        tmp_path / 'd/sub-01/ses-b/dwi/sub-01_ses-b_desc-denoised_dwi.nii.gz'
    ).read_bytes()


def test_a_bare_ctrl_c_is_said_too(own, study, cli, tmp_path, monkeypatch):
    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(OTHERS, 'denoise', stop)
    got = cli('batch', study, tmp_path / 'd', 'participant', *DENOISE, '--quiet')
    assert (
        got.code == 130
        and 'error: interrupted; the same command again' in got.err
        and got.err.count('\n') == 1
        and len(told) == 1
    )


def test_batch_in_processes_and_through_submitit(study, cli, tmp_path):
    got = cli(
        'batch', study, tmp_path / 'two', 'participant', '--method', 'blur', '--jobs', 2, '--quiet'
    )
    assert (
        got.code == 2
        and statuses(got.out) == ['done'] * 4 + ['failed']
        and got.err.count('\n') == 1
    ), got
    pytest.importorskip('submitit')
    rows = run_batch(
        batch_denoise,
        study,
        tmp_path / 'queued',
        'blur',
        participants=['02', '03'],
        cluster='debug',
    )
    assert [r['status'] for r in rows] == ['done', 'done', 'failed'] and 'truncated' in rows[2][
        'message'
    ]
    names = [f'sub-02/ses-{s}/dwi/sub-02_ses-{s}_desc-denoised_dwi.nii.gz' for s in 'ab']
    assert all(
        (tmp_path / 'two' / n).read_bytes() == (tmp_path / 'queued' / n).read_bytes() for n in names
    )


def test_batch_of_volumes_and_of_a_paired_method(study, files, cli, tmp_path):
    got = cli(
        'batch',
        study,
        tmp_path / 't',
        'participant',
        '--method',
        'blur',
        '--suffix',
        'T1w',
        '--bias-field',
        'keep',
        '--set',
        'width',
        1,
    )
    assert got.code == 0 and read_json(
        tmp_path / 't/sub-01/ses-a/anat/sub-01_ses-a_desc-denoised_T1w.json'
    )['Parameters'] == dict(width=1)
    got = cli(
        'batch',
        study,
        tmp_path / 'u',
        'participant',
        '--method',
        'unet',
        '--suffix',
        'T1w',
        '--model',
        files / 'model',
    )
    assert (
        got.code == 0
        and (tmp_path / 'u/sub-01/ses-a/anat/sub-01_ses-a_desc-denoised_T1w.nii.gz').is_file()
    ), got.err


def test_a_crash_in_one_scan_stops_no_other(own, study, cli, tmp_path, monkeypatch):
    def crash(data, *a, **k):
        raise ZeroDivisionError('by zero')

    monkeypatch.setattr(OTHERS, 'denoise', crash)
    got = cli('batch', study, tmp_path / 'd', 'participant', *DENOISE, '--quiet')
    assert (
        got.code == 1
        and got.err.count('\n') == 5
        and 'ZeroDivisionError' in got.err
        and statuses(got.out) == ['failed'] * 5
    )


@pytest.mark.parametrize(
    'words, said',
    [
        (['study', 'd', 'group', '--method', 'blur'], 'participant is expected'),
        (['nowhere', 'd', 'participant', '--method', 'blur'], 'no such folder'),
        (['study', 'study', 'participant', '--method', 'blur'], 'folder of their own'),
        (['model', 'd', 'participant', '--method', 'blur'], 'BIDS'),
        (['study', 'd', 'participant', '--method', 'blurr'], 'unknown'),
        (['study', 'd', 'participant', '--method', 'nafnet'], '--model'),
        (['study', 'd', 'participant', '--method', 'blur', '--model', 'model'], 'learns nothing'),
        (
            ['study', 'd', 'participant', '--method', 'blur', '--participant-label', '01', '09'],
            'no scans of participant 09',
        ),
        (['study', 'd', 'participant', '--method', 'blur', '--suffix', 'bold'], 'T1w, dwi'),
        (['study', 'd', 'participant', '--method', 'blur', '--cluster', 'cloud'], 'cloud'),
        (['study', 'd', 'participant', '--method', 'blur', '--jobs', '0'], 'at least one'),
        (['study', 'd', 'participant', '--method', 'blur', '--also', 'std'], 'no uncertainty'),
        (['study', 'd', 'participant', '--method', 'blur', '--also', 'film'], 'film'),
        (
            ['study', 'd', 'participant', '--method', 'blur', '--set', 'radius', '3'],
            'unknown setting',
        ),
        (['study', 'd', 'participant', '--method', 'blur', '--preset', 'huge'], 'huge'),
        (
            ['study', 'd', 'participant', '--method', 'blur', '--bias-field', 'away'],
            'keep, correct',
        ),
        (['study', 'd', 'participant'], '--method'),
    ],
)
def test_batch_refuses(study, files, cli, monkeypatch, words, said):
    monkeypatch.chdir(files)
    got = cli('batch', *words)
    assert (
        got.code == 2
        and said in got.err
        and got.err.count('\n') == 1
        and not got.out
        and not (files / 'd').exists()
    ), got


def test_a_result_of_unknown_origin_is_not_replaced(study, cli, tmp_path):
    target = tmp_path / 'd/sub-01/ses-a/anat/sub-01_ses-a_desc-denoised_T1w.nii.gz'
    target.parent.mkdir(parents=True)
    target.write_bytes(b'mine')
    command = ['batch', study, tmp_path / 'd', 'participant', '--method', 'blur', '--suffix', 'T1w']
    got = cli(*command)
    assert got.code == 2 and '--force' in got.err and target.read_bytes() == b'mine'
    assert cli(*command, '--force').code == 0 and target.read_bytes() != b'mine'


def test_registered_for_others_only():
    assert 'others' not in registry.methods() and OTHERS.name == 'others'


def test_sigma_in_the_python_door(own, files):
    from mri_diffusion.app.denoiser import Denoiser

    scan = Scan.load(files / 'series.nii.gz')
    d = Denoiser('others', 'tiny', quiet=True).fit([scan, scan], sigma=[2, 3])
    assert [f['sigma'] for f in told[0]] == [2, 3] and d.learned['bvals'] == scan.bvals.tolist()
    for wrong in (
        dict(noisy=scan, clean=scan),
        dict(noisy=scan, sigma=[1, 2]),
        dict(noisy=scan, sigma=-1),
        dict(noisy=scan, mask=np.zeros(scan.shape[:3])),
        dict(noisy=None),
    ):
        with pytest.raises(InputError):
            Denoiser('others', 'tiny', quiet=True).fit(**wrong)
    with pytest.raises(InputError):
        Denoiser('unet', 'tiny', quiet=True).fit(scan, scan, sigma=1)
