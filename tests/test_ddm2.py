"""The two methods for series, r2r and ddm2, from the command line

What they write, going on after Ctrl-C, a trained folder used again, and bad input.
"""

import os
import re
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.judge.scores import psnr
from mri_diffusion.learn.schedule import reverse_warmup_schedule
from mri_diffusion.methods.classical import nearest_volumes
from mri_diffusion.methods.ddm2 import DDM2_PRESETS, ddm2_config, denoise_published
from mri_diffusion.methods.ddm2_stage1 import neighbour_table
from mri_diffusion.methods.ddm2_stage2 import match_states
from mri_diffusion.methods.ddm2_stage3 import denoise_stage3
from mri_diffusion.methods.r2r import R2R_PRESETS
from mri_diffusion.noise.models import add_rician_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri
from mri_diffusion.scans.nifti import Scan, read_nifti

METHODS = ('r2r', 'ddm2')
TINY = ['--preset', 'tiny', '--device', 'cpu', '--method']
CHAIN = ['--set', 'T', 50]  # A walk of ddm2 of a few steps instead of hundreds
START = [
    sys.executable,
    '-c',
    'import sys; from mri_diffusion.app.cli import main; sys.exit(main())',
]
both = pytest.mark.parametrize('method', METHODS)


def take(scan, volumes):
    return Scan.from_array(
        scan.data[..., volumes], scan.affine, scan.bvals[volumes], scan.bvecs[volumes], scan.mask
    )


def noisy_of(scan, snr=15.0, seed=0):
    "The scan with Rician noise; SNR of the median b0"
    return scan.with_data(
        add_rician_noise(scan.data, float(np.median(scan.b0[scan.mask])) / snr, generator(seed))
    )


def error(data, scan):
    return float(
        np.sqrt(np.mean((data - scan.data)[scan.mask] ** 2) / np.mean(scan.data[scan.mask] ** 2))
    )


@pytest.fixture(scope='module')
def clean():
    return simulate_dmri(*make_gradients({1000: 12}, 2), shape=(18, 20, 8), voxel_size=None)[0]


@pytest.fixture(scope='module')
def where(clean, tmp_path_factory):
    "Files and trained folders that no test changes"
    d = tmp_path_factory.mktemp('ddm2')
    noisy_of(clean).save(d / 'noisy.nii')
    noisy_of(clean, 18.0, 1).save(d / 'other.nii')
    return d


@pytest.fixture(scope='module')
def trained(where):
    "One denoised scan of each method, its maps, its report, and the model beside it"
    from mri_diffusion.app.cli import main

    for method in METHODS:
        o = where / method
        code = main(
            [
                *map(
                    str,
                    [
                        'denoise',
                        where / 'noisy.nii',
                        o / 'out.nii',
                        *TINY,
                        method,
                        *(['--set', 'samples', 2] if method == 'ddm2' else []),
                        '--quiet',
                        '--residual',
                        o / 'residual.nii',
                        '--noise-map',
                        o / 'sigma.nii',
                        '--std',
                        o / 'std.nii',
                        '--report',
                        o / 'report.html',
                    ],
                )
            ]
        )
        assert code == 0
    return where


@both
def test_writes_series_maps_and_report(trained, clean, method):
    o, noisy = trained / method, Scan.load(trained / 'noisy.nii')
    out, residual, std = (Scan.load(o / f'{n}.nii') for n in ('out', 'residual', 'std'))
    sigma, affine, *_ = read_nifti(o / 'sigma.nii')  # may be one number everywhere
    assert (
        out.shape == residual.shape == std.shape == noisy.shape
        and sigma.shape[:3] == noisy.shape[:3]
        and np.allclose(affine, noisy.affine)
    )
    assert all(
        np.isfinite(s.data).all() and np.allclose(s.affine, noisy.affine)
        for s in (out, residual, std)
    )
    assert np.array_equal(out.bvals, noisy.bvals) and np.allclose(out.bvecs, noisy.bvecs, atol=1e-6)
    assert (
        np.allclose(noisy.data - out.data, residual.data, atol=1e-3)
        and sigma.min() >= 0
        and std.data.min() >= 0 < std.data[clean.mask].mean()
    )
    true = float(np.median(clean.b0[clean.mask])) / 15
    assert (
        0.7
        < np.median(sigma[clean.mask & (sigma.reshape(*clean.shape[:3], -1)[..., 0] > 0)]) / true
        < 1.3
    )
    at = nearest_volumes(out.data, noisy.data, clean.mask)
    assert set(at[:2]) <= {0, 1} and at[2:].tolist() == list(range(2, 14)), (
        'every volume is in its place; the two b0s have one truth'
    )
    assert (np.abs(residual.data).reshape(-1, 14).max(0) > 0).all() and abs(
        out.data[clean.mask].mean() / noisy.data[clean.mask].mean() - 1
    ) < 0.1
    assert psnr(out.data, clean.data, clean.mask) > psnr(noisy.data, clean.data, clean.mask)
    record, html = read_json(o / 'out.json'), (o / 'report.html').read_text()
    assert (
        record['Method'] == method
        and 'data:image/png' in html
        and ('matched' in html.lower() or 'state' in html)
    )


def interrupted(words, total):
    "Start, send Ctrl-C once three of `total` steps are done; (exit code, what was said)"
    run = subprocess.Popen(
        [*START, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | dict(TQDM_MININTERVAL='0.01', OMP_NUM_THREADS='1'),
    )
    seen = b''
    while not re.search(rb'\b([3-9]|\d\d)/%d\b' % total, seen):
        more = os.read(run.stderr.fileno(), 4096)
        assert more, seen.decode()
        seen += more
    run.send_signal(signal.SIGINT)
    out, rest = run.communicate(timeout=120)
    return (
        run.returncode,
        out.decode(),
        [line.split('\r')[-1] for line in (seen + rest).decode().splitlines()],
    )


STOPS = {
    'r2r': ('r2r', ['--set', 'steps', 40], 40, ''),
    'stage I': ('ddm2', ['--set', 'steps1', 40, '--set', 'steps3', 2, *CHAIN], 40, 'stage1'),
    'stage III': ('ddm2', ['--set', 'steps1', 2, '--set', 'steps3', 40, *CHAIN], 40, 'stage3'),
}


@pytest.mark.parametrize('stop', STOPS)
def test_interrupted_command_goes_on_to_the_same_bytes(where, cli, tmp_path, stop):
    method, words, total, stage = STOPS[stop]
    scan, model = where / 'noisy.nii', f'out_{method}'
    command = lambda d: ['denoise', scan, tmp_path / d / 'out.nii', *TINY, method, *words]
    code, out, lines = interrupted(command('a'), total)
    said = [line for line in lines if 'mri-diffusion' in line]
    assert (
        code == 130
        and not out
        and len(said) == 1
        and 'interrupted after step' in said[0]
        and 'checkpoint is saved' in said[0]
        and not any('Traceback' in line for line in lines)
    )
    step, left = (
        int(re.search(r'after step (\d+)', said[0])[1]),
        {
            p.relative_to(tmp_path / 'a').as_posix()
            for p in (tmp_path / 'a').rglob('*')
            if p.is_file()
        },
    )
    assert (
        3 <= step < total
        and (f'{model}/training/{stage}/checkpoint/train.json'.replace('//', '/')) in left
        and not {'out.nii', 'out.json', f'{model}/model.safetensors'} & left
    )
    again, whole = cli(*command('a')), cli(*command('b'), '--quiet')
    assert (
        again.code == whole.code == 0
        and f' {step}/{total} ' in again.err
        and f' 0/{total} ' not in again.err
    ), (again, whole)
    for name in ('out.nii', f'{model}/model.safetensors'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes(), name
    rows = [
        [
            line.split(',')[:2]
            for line in (tmp_path / d / model / 'training' / stage / 'metrics.csv')
            .read_text()
            .splitlines()
        ]
        for d in 'ab'
    ]
    assert rows[0] == rows[1]


@both
def test_trained_folder_denoises_without_training(
    trained, clean, cli, tmp_path, monkeypatch, method
):
    model = trained / method / f'out_{method}'
    before = {p: p.stat().st_mtime_ns for p in model.rglob('*') if p.is_file()}

    def never(*a, **k):
        raise AssertionError('trained again')

    for name in ('ddm2_stage1', 'ddm2_stage3', 'r2r'):
        monkeypatch.setattr(f'mri_diffusion.methods.{name}.fit', never)
    again = cli(
        'denoise',
        trained / 'noisy.nii',
        tmp_path / 'again.nii',
        '--model',
        model,
        *(['--set', 'samples', 2] if method == 'ddm2' else []),
    )
    other = cli(
        'denoise',
        trained / 'other.nii',
        tmp_path / 'other.nii',
        '--method',
        method,
        '--model',
        model,
    )
    assert again.code == other.code == 0 and 'training:' not in again.err + other.err, (
        again,
        other,
    )
    assert np.array_equal(
        Scan.load(tmp_path / 'again.nii').data, Scan.load(trained / method / 'out.nii').data
    )
    assert psnr(Scan.load(tmp_path / 'other.nii').data, clean.data, clean.mask) > psnr(
        Scan.load(trained / 'other.nii').data, clean.data, clean.mask
    )
    assert {p: p.stat().st_mtime_ns for p in model.rglob('*') if p.is_file()} == before


PROTOCOLS = dict(
    b=lambda s: Scan.from_array(s.data, s.affine, 3 * s.bvals, s.bvecs),
    fewer=lambda s: take(s, np.arange(8)),
    order=lambda s: take(s, np.r_[5, 0, 1:5, 6:14]),
)


@both
@pytest.mark.parametrize('kind', PROTOCOLS)
def test_other_protocol_is_refused(trained, cli, tmp_path, method, kind):
    PROTOCOLS[kind](Scan.load(trained / 'noisy.nii')).save(tmp_path / 'in.nii')
    refused(
        cli,
        [
            'denoise',
            tmp_path / 'in.nii',
            tmp_path / 'out.nii',
            '--model',
            trained / method / f'out_{method}',
        ],
        tmp_path,
        'train',
    )


def refused(cli, words, folder, said):
    before = sorted(folder.rglob('*'))
    got = cli(*words)
    assert got.code == 2 and not got.out, got
    line = got.err.split('\r')[-1]
    assert (
        line.startswith('mri-diffusion: error: ')
        and line.count('\n') == 1
        and 'Traceback' not in got.err
        and said in line
    ), got.err
    assert sorted(folder.rglob('*')) == before


def put(folder, scan, data=None, bval=True, bvec=True):
    "A series on disk, also one that `Scan.save` would refuse; its path"
    nib.save(
        nib.Nifti1Image(np.asarray(scan.data if data is None else data, np.float32), scan.affine),
        folder / 'in.nii',
    )
    if bval:
        np.savetxt(folder / 'in.bval', scan.bvals[None], '%g')
    if bvec:
        np.savetxt(folder / 'in.bvec', scan.bvecs.T)
    return folder / 'in.nii'


def shells():
    return simulate_dmri(
        *make_gradients({1000: 7, 3000: 7}, 2), shape=(18, 20, 8), voxel_size=None
    )[0]


def no_direction(scan):
    return Scan.from_array(scan.data, scan.affine, 0 * scan.bvals, None, scan.mask)


def with_(scan, value):
    x = noisy_of(scan).data.copy()
    x[3, 4, 2, 5] = value
    return x


REFUSED = (
    dict(  # (method, what is wrong): (folder, clean series) -> (path, further words); what is said
        volume=(
            'both',
            lambda d, c: (put(d, c.with_data(c.data[..., 0]), bval=False, bvec=False), []),
            'it takes series',
        ),
        one_volume=('both', lambda d, c: (put(d, noisy_of(take(c, [3]))), []), 'it takes series'),
        two_volumes=(
            'ddm2',
            lambda d, c: (put(d, noisy_of(take(c, [0, 3]))), []),
            '2 volumes',
        ),
        n_too_large=(
            'ddm2',
            lambda d, c: (put(d, noisy_of(c)), ['--set', 'n', 12]),
            'choose n from 1 to 11',
        ),
        all_b0=(
            'ddm2',
            lambda d, c: (put(d, no_direction(noisy_of(c)), bvec=False), []),
            'every volume is a b0',
        ),
        mixed_shells=('ddm2', lambda d, c: (put(d, noisy_of(shells())), []), '2 shells'),
        bvecs_missing=('ddm2', lambda d, c: (put(d, noisy_of(c), bvec=False), []), '.bvec'),
        bvals_missing=('ddm2', lambda d, c: (put(d, noisy_of(c), bval=False), []), '.bval'),
        mask_of_one_voxel=(
            'r2r',
            lambda d, c: (put(d, noisy_of(c)), ['--mask', one_voxel(d, c)]),
            'the mask holds 1 voxel',
        ),
        mask_of_one_voxel_matched=(
            'ddm2',
            lambda d, c: (
                put(d, noisy_of(c)),
                ['--mask', one_voxel(d, c), '--set', 'match', 'mask'],
            ),
            '1 voxel',
        ),
        zeros_in_the_middle=(
            'both',
            lambda d, c: (put(d, c, np.where(np.arange(14) == 6, 0, noisy_of(c).data)), []),
            'volume [6] of the series is constant',
        ),
        nan=('both', lambda d, c: (put(d, c, with_(c, np.nan)), []), '1 NaN'),
        unknown_noise=(
            'r2r',
            lambda d, c: (put(d, noisy_of(c)), ['--set', 'noise', 'pink']),
            "noise='pink'",
        ),
        std_of_one_walk=(
            'ddm2',
            lambda d, c: (put(d, noisy_of(c)), ['--std', d / 'std.nii']),
            'samples',
        ),
    )
)


def one_voxel(folder, scan):
    m = np.zeros(scan.shape[:3], np.uint8)
    m[9, 10, 4] = 1
    nib.save(nib.Nifti1Image(m, scan.affine), folder / 'mask.nii')
    return folder / 'mask.nii'


@pytest.mark.parametrize(
    'kind, method',
    [(k, m) for k, (of, *_) in REFUSED.items() for m in (METHODS if of == 'both' else [of])],
)
def test_bad_input_is_refused_in_one_line(clean, cli, tmp_path, kind, method):
    _, make, said = REFUSED[kind]
    path, words = make(tmp_path, clean)
    refused(cli, ['denoise', path, tmp_path / 'out.nii', *TINY, method, *words], tmp_path, said)


@pytest.mark.parametrize('change', ['n', 'bvec'])
def test_the_corrected_command_is_not_refused(clean, cli, tmp_path, change):
    path = put(tmp_path, noisy_of(clean), bvec=change == 'n')
    bad, good = dict(
        n=(['--set', 'n', 12], ['--set', 'n', 2]), bvec=([], ['--set', 'neighbours', 'acquisition'])
    )[change]
    command = ['denoise', path, tmp_path / 'out.nii', *TINY, 'ddm2']
    assert cli(*command, *bad).code == 2
    got = cli(*command, *good)
    assert got.code == 0 and (tmp_path / 'out.nii').is_file(), got.err


# (method, clean series that is made of the phantom, further words, SNR, what files lack)
SOUND = dict(
    two_volumes=('r2r', lambda c: take(c, [0, 3]), ['--sigma', '56'], 15, ''),  # no background
    few_volumes=('both', lambda c: take(c, np.r_[0, 2:9]), [], 15, ''),
    all_b0=('r2r', no_direction, [], 15, 'bvec'),
    mixed_shells=('r2r', lambda c: shells(), [], 15, ''),
    mixed_shells_apart=('ddm2', lambda c: shells(), ['--set', 'shells', 'apart'], 15, ''),
    mixed_shells_together=(
        'ddm2',
        lambda c: shells(),
        ['--set', 'shells', 'together'],
        15,
        '',
    ),
    one_slice=(
        'both',
        lambda c: simulate_dmri(c.bvals, c.bvecs, (36, 44, 1), voxel_size=4.0)[0],
        [],
        15,
        '',
    ),
    odd_sizes=(
        'both',
        lambda c: simulate_dmri(c.bvals, c.bvecs, (19, 23, 5), voxel_size=None)[0],
        [],
        15,
        '',
    ),
    very_noisy=('both', lambda c: c, [], 2, ''),
    bvecs_missing=('r2r', lambda c: c, [], 15, 'bvec'),
    bvals_missing=('r2r', lambda c: c, [], 15, 'bval bvec'),
    bvecs_not_needed=('ddm2', lambda c: c, ['--set', 'neighbours', 'acquisition'], 15, 'bvec'),
)


@pytest.mark.parametrize(
    'kind, method',
    [(k, m) for k, (of, *_) in SOUND.items() for m in (METHODS if of == 'both' else [of])],
)
def test_unusual_input_gives_a_better_series(clean, cli, tmp_path, kind, method):
    _, make, words, snr, lacks = SOUND[kind]
    truth = make(clean)
    noisy = noisy_of(truth, snr)
    path = put(tmp_path, noisy, bval='bval' not in lacks, bvec='bvec' not in lacks)
    got = cli(
        'denoise',
        path,
        tmp_path / 'out.nii',
        *TINY,
        method,
        *words,
        '--noise-map',
        tmp_path / 'sigma.nii',
        '--quiet',
    )
    assert got.code == 0 and not got.err, got.err
    out, sigma = (
        nib.load(tmp_path / 'out.nii').get_fdata().reshape(noisy.shape),
        nib.load(tmp_path / 'sigma.nii').get_fdata(),
    )
    assert np.isfinite(out).all() and np.isfinite(sigma).all()
    assert error(out, truth) <= error(noisy.data, truth), (
        error(out, truth),
        error(noisy.data, truth),
    )


def test_mask_of_one_voxel_changes_no_other_or_is_refused(clean, cli, tmp_path):
    path = put(tmp_path, noisy_of(clean))
    got = cli(
        'denoise',
        path,
        tmp_path / 'out.nii',
        *TINY,
        'ddm2',
        '--mask',
        one_voxel(tmp_path, clean),
        '--quiet',
    )
    if got.code:
        assert (
            got.code == 2
            and got.err.count('\n') == 1
            and 'mask' in got.err
            and not list(tmp_path.glob('out*'))
        ), got.err
        return
    moved = np.argwhere(
        (nib.load(tmp_path / 'out.nii').get_fdata() != noisy_of(clean).data).any(-1)
    )
    assert moved.tolist() in ([], [[9, 10, 4]])


@both
@pytest.mark.parametrize('volumes', [14, 8])
def test_noise_free_input_is_hardly_changed_or_it_is_said(cli, tmp_path, method, volumes):
    truth = take(
        simulate_dmri(*make_gradients({1000: 12}, 2), shape=(36, 40, 8), voxel_size=None)[0],
        np.arange(volumes),
    )
    got = cli(
        'denoise',
        put(tmp_path, truth),
        tmp_path / 'out.nii',
        *TINY,
        method,
        '--noise-map',
        tmp_path / 'sigma.nii',
        '--quiet',
    )
    if got.code:
        assert (
            got.code == 2
            and got.err.count('\n') == 1
            and 'noise' in got.err
            and not (tmp_path / 'out.nii').exists()
        ), got.err
        return
    moved, notes = (
        error(nib.load(tmp_path / 'out.nii').get_fdata(), truth),
        ' '.join(read_json(tmp_path / 'out.json')['Notes']),
    )
    assert moved < 0.02 or 'measured in the scan' in notes, (moved, notes)


@both
def test_series_of_copies(clean, method):
    "Volumes without any noise between them: returned nearly as they are, or one line"
    scan = Scan.from_array(
        np.repeat(clean.data[..., 3:4], 14, -1), clean.affine, clean.bvals, clean.bvecs, clean.mask
    )
    d = Denoiser(method, 'tiny', quiet=True, device='cpu')
    try:
        result = d.fit(scan).denoise(scan)
    except InputError as e:
        assert '\n' not in str(e) and ('noise' in str(e) or 'constant' in str(e))
    else:
        assert error(result.denoised.data, scan) < 0.02 or any(
            'measured in the scan' in n for n in result.meta['notes']
        )


def test_noise_free_with_a_known_level_is_returned_as_it_is(clean):
    d = Denoiser('ddm2', 'tiny', quiet=True, device='cpu', match='sigma').fit(
        noisy_of(clean), sigma=50.0
    )
    out = d.denoise(clean, sigma=1e-3)
    assert np.array_equal(out.denoised.data, clean.data) and any(
        'returned as they are' in n for n in out.meta['notes']
    )


@both
def test_volume_of_zeros_comes_back_as_it_was(clean, method):
    "Files with such a volume are refused; arrays are not"
    keep = np.arange(14) != 6
    noisy = noisy_of(clean)
    holed = noisy.with_data(np.where(keep, noisy.data, 0))
    d = Denoiser(method, 'tiny', quiet=True, device='cpu').fit(holed)
    result = d.denoise(holed)
    out = result.denoised.data
    assert (
        (out[..., 6] == 0).all()
        and np.isfinite(out).all()
        and any('volume 6' in n for n in result.meta['notes'])
    )
    assert error(out[..., keep], take(clean, keep)) < error(
        noisy.data[..., keep], take(clean, keep)
    )


def test_each_method_has_its_own_settings():
    "What the two share are settings of the one training loop"
    shared = DDM2_PRESETS['tiny'].keys() & R2R_PRESETS['tiny'].keys()
    assert shared == {'precision', 'workers', 'checkpoint_every'}
    assert 'form' not in DDM2_PRESETS['tiny'].keys() | R2R_PRESETS['tiny'].keys()


TABLE = np.r_[0.0, 0.0, np.full(10, 1000.0)]
TABLES = {
    '1 volume;': dict(bvals=TABLE[:1]),
    '2 volumes;': dict(bvals=TABLE[1:3]),
    'every volume is a b0': dict(bvals=np.zeros(5)),
    '2 shells': dict(bvals=np.r_[TABLE[:7], 2 * TABLE[7:]]),
    'choose n from 1 to 9': dict(bvals=TABLE, n=10),
    'needs a direction': dict(bvals=TABLE, how='qspace'),
    'bval file': dict(bvals=None),
    "neighbours='last'": dict(bvals=TABLE, how='last'),
    "b0='some'": dict(bvals=TABLE, b0='some'),
}


@pytest.mark.parametrize('said', TABLES)
def test_tables_that_give_no_neighbours(said):
    with pytest.raises(InputError, match=re.escape(said)):
        neighbour_table(**TABLES[said])


def test_a_misspelt_setting():
    with pytest.raises(InputError, match='unknown setting step1'):
        ddm2_config(step1=5)


def test_a_mask_too_small_to_match_in():
    x = np.random.default_rng(0).random((8, 8, 2, 3), np.float32)
    mask = np.zeros((8, 8, 2))
    mask[4, 4, 1] = 1
    with pytest.raises(InputError, match='the mask holds 1 voxels'):
        match_states(x, x, reverse_warmup_schedule(), mask=mask)


WALKS = {
    'below 1': dict(t=0.4),
    'all be the same': dict(t=9, how='ddim', samples=2),
    'samplers': dict(t=9, how='euler'),
}


@pytest.mark.parametrize('said', WALKS)
def test_walks_that_cannot_be_made(said):
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(InputError, match=said):
        denoise_stage3(None, image, schedule=reverse_warmup_schedule(), **WALKS[said])


BRIEF = dict(size='tiny', batch=2, steps1=4, steps3=6, lr=1e-3, sampling_steps=2, flips=False)


@pytest.mark.parametrize('other', ['settings', 'series'])
def test_a_folder_refuses_another_training(clean, tmp_path, other):
    series = noisy_of(clean).data[4:14, 4:14, 2:4]
    run = dict(bvals=clean.bvals, folder=tmp_path, quiet=True, device='cpu')
    denoise_published(series, config=BRIEF, **run)
    changed = dict(settings=(series, BRIEF | dict(n=1)), series=(2 * series, BRIEF))[other]
    with pytest.raises(InputError, match='belongs to another training'):
        denoise_published(changed[0], config=changed[1], **run)


def test_blocks_of_a_volume(clean):
    "In 3-D a volume has one state"
    series = noisy_of(clean).data[:, :, 2:6]
    config = BRIEF | dict(dims=3, patch=16, neighbours='qspace')
    out = denoise_published(series, clean.bvals, clean.bvecs, config=config, quiet=True)
    assert out['denoised'].shape == series.shape and np.isfinite(out['denoised']).all()
    assert np.ptp(out['states'].times, 1).max() == 0
