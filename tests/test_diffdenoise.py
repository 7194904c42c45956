"""DiffDenoise as a user meets it: scans and slices in, maps out, going on after an interruption,
what it refuses, and the four noises of the article"""

import json
import os
import pickle
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter
from test_images import series as dicom_series
from test_images import slice_of, write

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.learn.tasks import image_task
from mri_diffusion.methods import diffdenoise, diffdenoise_scan
from mri_diffusion.methods.classical import nearest_volumes
from mri_diffusion.methods.diffdenoise import copy_teacher
from mri_diffusion.methods.diffdenoise_scan import DIFFDENOISE_PRESETS, chosen, fit_diffdenoise
from mri_diffusion.methods.slicewise import unit_of
from mri_diffusion.noise.kspace import add_kspace_noise
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.fourier import fft2c, ifft2c, zero_fill
from mri_diffusion.scans.nifti import Scan, read_nifti

TINY = ['--preset', 'tiny', '--device', 'cpu']
DENOISE = ['--method', 'diffdenoise', *TINY]
SHORT = [
    '--set',
    'steps1',
    2,
    '--set',
    'steps2',
    0,
    '--set',
    'steps',
    2,
]  # where only the way is tested
AFFINE = np.diag([-2.0, 2, 3, 1])
NAMES = [f'im{k}.png' for k in (1, 2, 10)]


def put(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), affine), path)
    return path


def values(path):
    return nib.load(path).get_fdata(dtype=np.float32)


def set_(**settings):
    return [w for k, v in settings.items() for w in ('--set', k, v)]


@pytest.fixture(scope='module')
def brain():
    "Clean slices with air around the head, of order 1"
    x = load_t1(downsample=2).data[6:-6, 14:-14, 40:50]
    return np.ascontiguousarray(x / np.percentile(x, 99.9), np.float32)


@pytest.fixture(scope='module')
def small(brain):
    return brain[::2, ::2][2:39, :44, :6]  # 37 x 44 x 6


def noisy_of(clean, level=0.05, kind='rician', seed=0, **how):
    return add_noise(clean, level, kind, gen=generator(seed), **how)


@pytest.fixture(scope='module')
def where(small, tmp_path_factory):
    "A noisy volume of 37 x 44, denoised with all its maps by what it trained; no test changes them"
    from mri_diffusion.app.cli import main

    d = tmp_path_factory.mktemp('diffdenoise')
    (
        put(d / 'noisy.nii.gz', noisy_of(small)),
        put(d / 'other.nii.gz', noisy_of(small[:, :, ::-1], seed=1)),
    )
    words = [
        'denoise',
        d / 'noisy.nii.gz',
        d / 'out.nii.gz',
        *DENOISE,
        '--quiet',
        '--residual',
        d / 'residual.nii.gz',
        '--noise-map',
        d / 'sigma.nii.gz',
        '--std',
        d / 'std.nii.gz',
        '--report',
        d / 'report.html',
    ]
    assert main([str(w) for w in words]) == 0
    return d


def never(*a, **k):
    raise AssertionError('trained again')


def no_training(monkeypatch):
    monkeypatch.setattr(diffdenoise, 'fit', never)


# What is written


def test_volume_maps_report_and_record(where):
    noisy, out, residual, std = (
        Scan.load(where / f'{n}.nii.gz') for n in ('noisy', 'out', 'residual', 'std')
    )
    sigma = read_nifti(where / 'sigma.nii.gz')[0]
    assert all(
        s.shape == noisy.shape == (37, 44, 6)
        and np.allclose(s.affine, AFFINE)
        and np.isfinite(s.data).all()
        for s in (noisy, out, residual, std)
    )
    assert (
        np.allclose(noisy.data - out.data, residual.data, atol=1e-5)
        and np.abs(residual.data).max() > 0
        and out.data.min() >= 0
    )
    assert (
        std.data.min() >= 0 < np.median(std.data)
        and sigma.shape == noisy.shape
        and abs(np.median(sigma) / 0.05 - 1) < 0.2
    )
    record, html = read_json(where / 'out.json'), (where / 'report.html').read_text()
    assert (
        record['Method'] == 'diffdenoise'
        and record['Parameters']['form'] == 'reuse'
        and record['Sources'] == ['noisy.nii.gz']
        and abs(record['Sigma'] / 0.05 - 1) < 0.2
    )
    assert (
        any('weights of least risk' in n for n in record['Notes'])
        and 'data:image/png' in html
        and 'Stages, middle slice' in html
    )
    assert {p.name for p in (where / 'out_diffdenoise').iterdir()} == {
        'model.safetensors',
        'config.json',
        'training',
    }


def test_train_then_denoise(where, cli, tmp_path, monkeypatch):
    got = cli('train', 'diffdenoise', where / 'noisy.nii.gz', '--out', tmp_path / 'm', *TINY)
    assert (
        got.code == 0
        and got.out.count('\n') == 1
        and 'diffdenoise (tiny, 12 steps, seed 0' in got.out
    ), got
    assert (
        not list((tmp_path / 'm').rglob('checkpoint'))
        and (tmp_path / 'm' / 'training' / 'stage4' / 'metrics.csv').is_file()
    )
    assert (tmp_path / 'm' / 'model.safetensors').read_bytes() == (
        where / 'out_diffdenoise' / 'model.safetensors'
    ).read_bytes(), 'one training, two ways to it'
    no_training(monkeypatch)
    got = cli(
        'denoise',
        where / 'noisy.nii.gz',
        tmp_path / 'a.nii.gz',
        '--model',
        tmp_path / 'm',
        '--json',
    )
    assert (
        got.code == 0
        and json.loads(got.out)['method'] == 'diffdenoise'
        and 'note: noise level' in got.err
    )
    assert np.array_equal(values(tmp_path / 'a.nii.gz'), values(where / 'out.nii.gz'))
    got = cli(
        'denoise',
        where / 'other.nii.gz',
        tmp_path / 'b.nii.gz',
        '--method',
        'diffdenoise',
        '--model',
        tmp_path / 'm',
        '--quiet',
    )
    assert got.code == 0 and not got.err and values(tmp_path / 'b.nii.gz').shape == (37, 44, 6)


def test_second_denoise_uses_what_lies_beside(where, cli, tmp_path, monkeypatch):
    shutil.copytree(where, tmp_path / 'd')
    words = ['denoise', tmp_path / 'd' / 'noisy.nii.gz', tmp_path / 'd' / 'out.nii.gz', *DENOISE]
    no_training(monkeypatch)
    got = cli(*words)
    assert got.code == 0 and 'nothing done' in got.out
    (tmp_path / 'd' / 'out.nii.gz').write_bytes(b'')
    got = cli(*words)
    assert got.code == 2 and 'changed since it was written; use --force' in got.err
    got = cli(*words, '--force')
    assert (
        got.code == 0
        and 'training:' not in got.err
        and np.array_equal(values(tmp_path / 'd' / 'out.nii.gz'), values(where / 'out.nii.gz'))
    ), got.err


def test_several_scans_of_several_sizes(where, small, cli, tmp_path):
    put(tmp_path / 'b.nii', noisy_of(small[:30, :33, :2], seed=3))
    assert (
        cli(
            'train',
            'diffdenoise',
            where / 'noisy.nii.gz',
            tmp_path / 'b.nii',
            '--out',
            tmp_path / 'm',
            *TINY,
            *SHORT,
        ).code
        == 0
    )
    assert cli(
        'denoise', tmp_path / 'b.nii', tmp_path / 'out.nii', '--model', tmp_path / 'm'
    ).code == 0 and values(tmp_path / 'out.nii').shape == (30, 33, 2)


def pngs(folder, data, bits):
    "(X, Y, Z) of order 1 as PNG slices"
    folder.mkdir()
    stored = np.clip(np.round(data * (200 if bits == 8 else 3000)), 0, 2**bits - 1).astype(
        f'u{bits // 8}'
    )
    for k, n in enumerate(NAMES[: data.shape[2]]):
        Image.fromarray(np.ascontiguousarray(stored[..., k].T[::-1])).save(folder / n)
    return folder


@pytest.mark.parametrize('bits', [8, 16])
def test_slices_of_png(small, cli, tmp_path, monkeypatch, bits):
    pngs(tmp_path / 'in', noisy_of(small)[..., :3], bits)
    words = ['train', 'diffdenoise', tmp_path / 'in', '--out', tmp_path / 'm', *TINY, *SHORT]
    got = cli(*words, '--quiet')
    assert got.code == 0, got.err
    no_training(monkeypatch)
    for out in ('out', 'out.nii.gz'):
        got = cli(
            'denoise',
            tmp_path / 'in',
            tmp_path / out,
            '--model',
            tmp_path / 'm',
            '--force',
            '--quiet',
            *(
                ['--std', tmp_path / 'std.nii.gz', '--residual', tmp_path / 'r.nii.gz']
                if out == 'out'
                else []
            ),
        )
        assert got.code == 0, got.err
    png, nifti = Scan.load(tmp_path / 'out'), Scan.load(tmp_path / 'out.nii.gz')
    assert (
        sorted(os.listdir(tmp_path / 'out')) == sorted(NAMES)
        and png.images.bits == bits
        and png.shape == nifti.shape == (37, 44, 3)
    )
    assert (
        np.array_equal(png.data, np.clip(np.round(nifti.data), 0, 2**bits - 1))
        and png.data.std() > 0
    )
    assert (
        np.allclose(
            values(tmp_path / 'r.nii.gz'), Scan.load(tmp_path / 'in').data - nifti.data, atol=1e-2
        )
        and values(tmp_path / 'std.nii.gz').min() >= 0
    )


def test_folder_of_png_without_a_model(small, cli, tmp_path):
    pngs(tmp_path / 'in', noisy_of(small)[..., :2], 16)
    got = cli('denoise', tmp_path / 'in', tmp_path / 'out', *DENOISE, *SHORT)
    assert (
        got.code == 0
        and sorted(os.listdir(tmp_path)) == ['in', 'out', 'out.json', 'out_diffdenoise']
        and sorted(os.listdir(tmp_path / 'out')) == NAMES[:2]
    ), got.err


def test_one_png(small, cli, tmp_path):
    pngs(tmp_path / 'in', noisy_of(small)[..., 2:3], 16)
    got = cli('denoise', tmp_path / 'in' / NAMES[0], tmp_path / 'one.png', *DENOISE, *SHORT)
    assert (
        got.code == 0
        and np.asarray(Image.open(tmp_path / 'one.png')).shape == (44, 37)
        and np.asarray(Image.open(tmp_path / 'one.png')).dtype == np.uint16
    ), got.err


def test_dicom_series(brain, cli, tmp_path):
    x = np.round(noisy_of(brain[..., :2]) * 1000).astype('<u2')
    for k in range(2):
        write(
            slice_of(k, rows=88, cols=86, PixelData=np.ascontiguousarray(x[..., k].T).tobytes()),
            tmp_path / 'in' / f'{k}.dcm',
        )
    got = cli('denoise', tmp_path / 'in', tmp_path / 'out.nii.gz', *DENOISE, *SHORT)
    out = Scan.load(tmp_path / 'out.nii.gz')
    assert (
        got.code == 0 and out.shape == (86, 88, 2) and np.allclose(out.voxel_size, [1.25, 1.5, 2.5])
    ), got.err


@pytest.mark.parametrize('shape', [(37, 45, 1), (17, 19, 4), (16, 16, 4), (16, 44, 2)])
def test_odd_and_small_sizes(brain, cli, tmp_path, shape):
    put(tmp_path / 'in.nii', noisy_of(brain[20:][: shape[0], 20:][:, : shape[1], : shape[2]]))
    got = cli(
        'denoise',
        tmp_path / 'in.nii',
        tmp_path / 'out.nii',
        *DENOISE,
        *SHORT,
        '--sigma',
        0.05,
        '--quiet',
        '--std',
        tmp_path / 'std.nii',
    )
    assert (
        got.code == 0
        and values(tmp_path / 'out.nii').shape == shape == values(tmp_path / 'std.nii').shape
        and np.allclose(nib.load(tmp_path / 'out.nii').affine, AFFINE)
    ), got.err


def test_series_keeps_the_identity_of_its_volumes(small, cli, tmp_path):
    contrasts = np.stack([small, small.max() - small, small[::-1], small**2], -1)[:, :, :3]
    noisy = noisy_of(contrasts)
    put(tmp_path / 'in.nii', noisy)
    got = cli(
        'denoise',
        tmp_path / 'in.nii',
        tmp_path / 'out.nii',
        *DENOISE,
        '--noise-map',
        tmp_path / 'sigma.nii',
        '--residual',
        tmp_path / 'r.nii',
        '--quiet',
    )
    out = values(tmp_path / 'out.nii')
    assert got.code == 0 and out.shape == noisy.shape == values(tmp_path / 'r.nii').shape, got.err
    assert (
        nearest_volumes(out, noisy, np.ones(out.shape[:3], bool)).tolist() == [0, 1, 2, 3]
        and np.isfinite(values(tmp_path / 'sigma.nii')).all()
    )


def test_outside_the_mask_the_scan_stays(where, small, cli, tmp_path):
    put(tmp_path / 'mask.nii', small > 0.2)
    got = cli(
        'denoise',
        where / 'noisy.nii.gz',
        tmp_path / 'out.nii',
        '--model',
        where / 'out_diffdenoise',
        '--mask',
        tmp_path / 'mask.nii',
    )
    moved = values(tmp_path / 'out.nii') != values(where / 'noisy.nii.gz')
    assert got.code == 0 and not moved[small <= 0.2].any() and moved[small > 0.2].mean() > 0.9


# Settings


def again(cli, where, out, *words):
    got = cli('denoise', where / 'noisy.nii.gz', out, '--model', where / 'out_diffdenoise', *words)
    assert got.code == 0, got.err
    return values(out), got.err


def test_use(where, cli, tmp_path, monkeypatch):
    no_training(monkeypatch)
    student = values(where / 'out.nii.gz')
    mean, _ = again(cli, where, tmp_path / 'mean.nii', *set_(use='mean'))
    one, said = again(
        cli,
        where,
        tmp_path / 'sample.nii',
        *set_(use='sample', pairs=2),
        '--std',
        tmp_path / 'std.nii',
    )
    assert (
        np.isfinite(one).all()
        and '2 symmetric pairs' in said
        and read_json(tmp_path / 'sample.json')['Parameters']['use'] == 'sample'
    )
    assert not any(np.array_equal(a, b) for a, b in ((mean, student), (one, mean), (one, student)))
    assert np.array_equal(
        one, again(cli, where, tmp_path / 'b.nii', *set_(use='sample', pairs=2))[0]
    )
    assert not np.array_equal(
        one, again(cli, where, tmp_path / 'c.nii', *set_(use='sample', pairs=2), '--seed', 5)[0]
    ), 'another seed, another sample'


def test_published_form(where, cli, tmp_path):
    got = cli(
        'denoise',
        where / 'noisy.nii.gz',
        tmp_path / 'out.nii',
        *DENOISE,
        *set_(form='published', use='mean', pairs=2, steps1=4, steps2=4, steps=4),
        '--std',
        tmp_path / 'std.nii',
    )
    record = read_json(tmp_path / 'out.json')
    assert (
        got.code == 0
        and record['Parameters']['form'] == 'published'
        and 'symmetric pairs' in got.err
        and 'least risk' not in got.err
    ), got.err
    assert (
        np.isfinite(values(tmp_path / 'out.nii')).all()
        and (values(tmp_path / 'std.nii') > 0).mean() > 0.5
    )
    assert read_json(tmp_path / 'out_diffdenoise' / 'config.json')['learned']['risk'] == 0
    refused(
        cli,
        [
            'denoise',
            where / 'noisy.nii.gz',
            tmp_path / 'other.nii',
            '--model',
            tmp_path / 'out_diffdenoise',
            *set_(use='student'),
            '--std',
            tmp_path / 'other_std.nii',
        ],
        tmp_path,
        'only with --set use mean',
    )


FIXED = dict(
    form='published',
    steps=13,
    steps1=13,
    side=3,
    gate='warn',
    noise='additive',
    context=1,
    blind='halfplane',
    student='small',
    T=50,
    own_pixel='no',
    channels='8,16',
    n_coils=2,
    risk=0.3,
    diffused='image',
)


@pytest.mark.parametrize('name', FIXED)
def test_settings_of_the_training_are_refused(where, cli, tmp_path, name):
    refused(
        cli,
        [
            'denoise',
            where / 'noisy.nii.gz',
            tmp_path / 'out.nii',
            '--model',
            where / 'out_diffdenoise',
            '--set',
            name,
            FIXED[name],
        ],
        tmp_path,
        'cannot be changed now',
    )


def test_seeds(where, small, cli, tmp_path):
    put(tmp_path / 'in.nii', noisy_of(small[..., :1]))
    for name, seed in dict(a=4, b=4, c=5).items():
        assert (
            cli(
                'denoise',
                tmp_path / 'in.nii',
                tmp_path / f'{name}.nii',
                *DENOISE,
                *set_(steps1=2, steps2=2, steps=2),
                '--seed',
                seed,
            ).code
            == 0
        )
    weights, out = (
        [(tmp_path / p.format(n)).read_bytes() for n in 'abc']
        for p in ('{}_diffdenoise/model.safetensors', '{}.nii')
    )
    assert (
        weights[0] == weights[1] != weights[2]
        and out[0] == out[1] != out[2]
        and read_json(tmp_path / 'c.json')['Seed'] == 5
    )


# Interruption

STOPS = ('stage 1', 'stage 2', 'teacher', 'stage 4')


def stopping(monkeypatch, stop, after=5, by_signal=True):
    "Interrupt the training after `after` steps of a stage, or while the teacher is made"
    whole, made, seen = diffdenoise.fit, diffdenoise_scan.guesses, []

    def callback(state):
        if state['step'] == after:
            if not by_signal:
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)

    def stopped_fit(model, objective, data, steps, lr, folder, callbacks=(), **k):
        return whole(
            model,
            objective,
            data,
            steps,
            lr,
            folder,
            callbacks=[*callbacks, *[callback] * (stop.replace(' ', '') == folder.name)],
            **k,
        )

    def stopped_guesses(*a, **k):
        seen.append(1)
        if stop == 'teacher' and len(seen) == 3:
            raise KeyboardInterrupt
        return made(*a, **k)

    (
        monkeypatch.setattr(diffdenoise, 'fit', stopped_fit),
        monkeypatch.setattr(diffdenoise_scan, 'guesses', stopped_guesses),
    )


def counting(monkeypatch):
    "Steps done in each stage from now on, and how often the teacher was asked"
    whole, made, steps, asked = diffdenoise.fit, diffdenoise_scan.guesses, [], []

    def fit(*a, callbacks=(), **k):
        steps.append([])
        return whole(
            *a, callbacks=[*callbacks, lambda state, to=steps[-1]: to.append(state['step'])], **k
        )

    monkeypatch.setattr(diffdenoise, 'fit', fit)
    monkeypatch.setattr(
        diffdenoise_scan, 'guesses', lambda *a, **k: asked.append(1) or made(*a, **k)
    )
    return steps, asked


@pytest.mark.parametrize('stop', STOPS)
def test_interrupted_training_goes_on_to_the_same_bits(where, cli, tmp_path, monkeypatch, stop):
    words = ['denoise', where / 'noisy.nii.gz', tmp_path / 'out.nii.gz', *DENOISE]
    with monkeypatch.context() as m:
        stopping(m, stop)
        got = cli(*words)
    said = got.err.split('\r')[-1].strip().splitlines()[-1]
    assert (
        got.code == 130
        and not got.out
        and 'mri-diffusion: interrupted' in said
        and 'Traceback' not in got.err
    ), got.err
    assert stop == 'teacher' or 'interrupted after step 5; its checkpoint is saved' in said
    assert (
        not (tmp_path / 'out.nii.gz').exists()
        and not (tmp_path / 'out_diffdenoise' / 'model.safetensors').exists()
        and not list(tmp_path.rglob('.tmp-*'))
    )
    assert (
        'not a finished model'
        in cli(
            'denoise',
            where / 'noisy.nii.gz',
            tmp_path / 'x.nii.gz',
            '--model',
            tmp_path / 'out_diffdenoise',
        ).err
    )
    steps, asked = counting(monkeypatch)
    assert cli(*words).code == 0
    at = dict(zip(('stage 1', 'stage 2', 'stage 4'), steps))
    left = {'stage 1': range(6, 13), 'stage 2': range(6, 7), 'stage 4': range(6, 13)}
    for stage, total in {'stage 1': 12, 'stage 2': 6, 'stage 4': 12}.items():
        assert at[stage] == list(
            left[stage]
            if stage == stop
            else range(0)
            if stage < ('stage 3' if stop == 'teacher' else stop)
            else range(1, total + 1)
        ), (stage, at)
    assert bool(asked) == (stop != 'stage 4') or len(asked) == 1, (
        'the teacher that was made is kept; denoising asks once'
    )
    for name in ('out.nii.gz', 'out_diffdenoise/model.safetensors'):
        assert same(tmp_path / name, where / name), name


def same(a, b):
    if a.suffix == '.gz':
        return np.array_equal(values(a), values(b))
    return a.read_bytes() == b.read_bytes()


def test_a_hard_stop_loses_only_what_came_after_the_checkpoint(small, tmp_path, monkeypatch):
    "No signal, but the end of the process: the last checkpoint counts"
    scan = Scan.from_array(noisy_of(small[..., :2]))
    how = dict(preset='tiny', quiet=True, device='cpu', checkpoint_every=4)
    with monkeypatch.context() as m:
        stopping(m, 'stage 4', 7, by_signal=False)
        with pytest.raises(KeyboardInterrupt):
            Denoiser('diffdenoise', **how).fit(scan, folder=tmp_path / 't')
    steps, _ = counting(monkeypatch)
    went_on = Denoiser('diffdenoise', **how).fit(scan, folder=tmp_path / 't')
    assert steps == [[], [], list(range(5, 13))]
    whole = Denoiser('diffdenoise', **how).fit(scan)
    assert (
        all(
            torch.equal(p, q)
            for p, q in zip(went_on.net.state_dict().values(), whole.net.state_dict().values())
        )
        and went_on.learned == whole.learned
    )


@pytest.mark.parametrize('how', ['empty', 'cut', 'other', 'objects'])
def test_a_damaged_teacher_is_made_again(small, tmp_path, how):
    scan, trained = (
        Scan.from_array(noisy_of(small[..., :2])),
        lambda: Denoiser(
            'diffdenoise', 'tiny', quiet=True, device='cpu', steps1=4, steps2=2, steps=4
        ).fit(scan, folder=tmp_path / 't'),
    )
    a, path = trained(), tmp_path / 't' / 'teacher.npz'
    raw = path.read_bytes()
    shutil.rmtree(tmp_path / 't' / 'stage4')
    if how == 'objects':
        np.savez(path, key=np.array(Bomb(), object))
    else:
        path.write_bytes(dict(empty=b'', cut=raw[: len(raw) // 2], other=b'hello')[how])
    b = trained()
    assert (
        all(
            torch.equal(p, q)
            for p, q in zip(a.net.state_dict().values(), b.net.state_dict().values())
        )
        and path.stat().st_size == len(raw)
        and not Bomb.gone_off
    )


class Bomb:
    "Remembers that it was unpickled"

    gone_off = []

    def __reduce__(self):
        return Bomb.gone_off.append, (1,)


# Bad input


def refused(cli, words, folder, said, code=2):
    before = sorted(folder.rglob('*'))
    got = cli(*words)
    line = got.err.split('\r')[-1]
    assert got.code == code and not got.out, got
    assert (
        line.startswith('mri-diffusion: error: ')
        and line.count('\n') == 1
        and 'Traceback' not in got.err
        and 'unexpected' not in got.err
    ), got.err
    assert said in line, line
    assert sorted(folder.rglob('*')) == before


def with_(x, value):
    x = x.copy()
    x[3, 4, 0] = value
    return x


def broken_png(d, x, change):
    pngs(d / 'in', x[..., :3], 16)
    change(d / 'in' / NAMES[1])
    return d / 'in'


def mixed_dicom(d, x):
    dicom_series(d / 'in', rows=24, cols=20)
    write(
        slice_of(
            2,
            24,
            20,
            series='1.2.9',
            SeriesDescription='t2_tse',
            PixelData=np.zeros((24, 20), '<u2').tobytes(),
        ),
        d / 'in' / 'IM9',
    )
    return d / 'in'


INPUTS = dict(  # (folder, noisy) -> path; what is said
    small=(lambda d, x: put(d / 'in.nii', x[:15]), 'at least 16 x 16'),
    constant=(lambda d, x: put(d / 'in.nii', 0 * x + 3), 'constant'),
    zeros=(lambda d, x: put(d / 'in.nii', 0 * x), 'constant'),
    nan=(lambda d, x: put(d / 'in.nii', with_(x, np.nan)), '1 NaN'),
    inf=(lambda d, x: put(d / 'in.nii', with_(x, np.inf)), '1 Inf'),
    ramp=(
        lambda d, x: put(d / 'in.nii', np.fromfunction(lambda i, j, k: 100 + i + j, (40, 40, 6))),
        'no noise',
    ),
    truncated_png=(
        lambda d, x: broken_png(d, x, lambda p: p.write_bytes(p.read_bytes()[:-40])),
        'truncated',
    ),
    colour_png=(
        lambda d, x: broken_png(
            d,
            x,
            lambda p: Image.fromarray(
                np.random.default_rng(0).integers(0, 256, (44, 37, 3)).astype(np.uint8)
            ).save(p),
        ),
        'colour image',
    ),
    mixed_depths=(
        lambda d, x: broken_png(
            d, x, lambda p: Image.fromarray(np.ones((44, 37), np.uint8)).save(p)
        ),
        'bits',
    ),
    small_png=(lambda d, x: pngs(d / 'in', x[:12, :12, :2], 8), 'at least 16 x 16'),
    mixed_dicom=(mixed_dicom, 'DICOM series'),
    empty_folder=(lambda d, x: (d / 'in').mkdir() or d / 'in', 'no PNG or DICOM image'),
    missing=(lambda d, x: d / 'nowhere.nii', 'no such file'),
)


@pytest.mark.parametrize('kind', INPUTS)
def test_bad_scan(small, cli, tmp_path, kind):
    make, said = INPUTS[kind]
    path = make(tmp_path, noisy_of(small))
    refused(cli, ['denoise', path, tmp_path / 'out.nii', *DENOISE], tmp_path, said)
    refused(cli, ['train', 'diffdenoise', path, '--out', tmp_path / 'm', *TINY], tmp_path, said)


def test_no_noise(brain, cli, tmp_path):
    put(tmp_path / 'in.nii', gaussian_filter(brain, 3) * (brain > 0.02))
    refused(
        cli, ['denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE], tmp_path, 'no noise'
    )
    refused(
        cli,
        ['denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE, '--sigma', 0],
        tmp_path,
        'must be positive',
    )
    refused(
        cli,
        ['denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE, '--sigma', 1e-7],
        tmp_path,
        'no noise',
    )


SETTINGS = dict(
    form=('form', 'best', "form='best'"),
    use=('use', 'mode', "use='mode'"),
    side=('side', 2, 'side=2'),
    side_negative=('side', -1, 'side=-1'),
    side_of_the_slice=('side', 37, 'side=37'),
    gate=('gate', 'open', "gate='open'"),
    noise=('noise', 'pink', "noise='pink'"),
    own_pixel=('own_pixel', 'perhaps', 'own_pixel'),
    unknown=('stepz', 3, 'unknown setting stepz'),
    word=('T', 'many', "T='many'"),
    flag=('conditioned', 'maybe', 'conditioned'),
    student=('student', 'huge', "'huge'"),
    student_loss=('student_loss', 'l3', "'l3'"),
    risk=('risk', 2, 'risk=2'),
    blind=('blind', 'x', "'x'"),
    blind_size=('blind_size', 'x', "'x'"),
    blind_loss=('blind_loss', 'x', "'x'"),
    diffused=('diffused', 'x', "'x'"),
    output=('output', 'x', "'x'"),
    pairs=('pairs', 0, 'pairs=0'),
    sampling_steps=('sampling_steps', 0, 'sampling_steps=0'),
    window=('window', 0, 'window=0'),
    T=('T', 0, 'T=0'),
    channels=('channels', '8,12', 'channels'),
    attention=('attention', 'x', 'attention'),
    batch=('batch', 0, 'batch=0'),
    patch=('patch', 0, 'patch=0'),
    steps=('steps', 0, 'steps'),
    steps1=('steps1', 0, 'steps1=0'),
    steps2=('steps2', -1, 'steps2=-1'),
    lr=('lr', 'nan', 'lr=nan'),
    checkpoint_every=('checkpoint_every', 0, 'checkpoint_every=0'),
    context=('context', 6, 'context=6'),
    context_negative=('context', -1, 'context=-1'),
    coils=('n_coils', 0, 'n_coils=0'),
    ema=('ema', 2, 'ema=2'),
    precision=('precision', 'fp8', 'fp8'),
)


@pytest.mark.parametrize('kind', SETTINGS)
def test_bad_setting(where, cli, tmp_path, kind):
    name, value, said = SETTINGS[kind]
    refused(
        cli,
        ['denoise', where / 'noisy.nii.gz', tmp_path / 'out.nii', *DENOISE, '--set', name, value],
        tmp_path,
        said,
    )


@pytest.mark.parametrize(
    'name, value', [('use', 'mode'), ('pairs', 0), ('sampling_steps', 0), ('window', 0)]
)
def test_bad_setting_of_a_finished_model(where, cli, tmp_path, name, value):
    refused(
        cli,
        [
            'denoise',
            where / 'noisy.nii.gz',
            tmp_path / 'out.nii',
            '--model',
            where / 'out_diffdenoise',
            '--set',
            name,
            value,
        ],
        tmp_path,
        f'{name}={value!r}',
    )


def test_settings_that_do_not_go_together(where, cli, tmp_path):
    for words, said in (
        (set_(form='published', steps2=0), 'steps2'),
        (set_(use='mean', steps2=0), 'steps2'),
    ):
        refused(
            cli,
            ['denoise', where / 'noisy.nii.gz', tmp_path / 'out.nii', *DENOISE, *words],
            tmp_path,
            said,
        )


def test_attention_from_the_command_line(where):
    "Text becomes levels"
    d = Denoiser(
        'diffdenoise', 'tiny', quiet=True, device='cpu', attention='1', steps1=2, steps2=2, steps=2
    ).fit(where / 'noisy.nii.gz')
    assert any('attn' in n or 'attention' in n for n, _ in d.net['conditional'].named_parameters())


CALLS = dict(
    sigma_shape=(lambda d: ['--sigma', put(d / 's.nii', np.ones((5, 5, 5)))], 'shape'),
    sigma_affine=(
        lambda d: ['--sigma', put(d / 's.nii', np.ones((37, 44, 6)), np.eye(4))],
        'affine',
    ),
    sigma_negative=(lambda d: ['--sigma', -1], 'sigma'),
    mask_shape=(lambda d: ['--mask', put(d / 'm.nii', np.ones((5, 5, 5)))], 'shape'),
    mask_empty=(lambda d: ['--mask', put(d / 'm.nii', np.zeros((37, 44, 6)))], 'empty mask'),
    std_png=(lambda d: ['--std', d / 's.png'], '.nii'),
    model_of_nothing=(
        lambda d: [
            (d / 'm').mkdir() or '--model',
            (d / 'm' / 'x').write_text('') and d / 'm' or d / 'm',
        ],
        'not a model',
    ),
    preset=(lambda d: ['--preset', 'huge'], "'huge'"),
    seed=(lambda d: ['--seed', -1], 'seed -1'),
)


@pytest.mark.parametrize('kind', CALLS)
def test_bad_call(where, cli, tmp_path, kind):
    make, said = CALLS[kind]
    refused(
        cli,
        ['denoise', where / 'noisy.nii.gz', tmp_path / 'out.nii', *DENOISE, *make(tmp_path)],
        tmp_path,
        said,
    )


def test_wrong_model(where, made, cli, tmp_path):
    words = ['denoise', where / 'noisy.nii.gz', tmp_path / 'out.nii']
    refused(
        cli,
        [*words, '--method', 'diffdenoise', '--model', made / 'model'],
        tmp_path,
        'holds a model of unet',
    )
    refused(
        cli,
        [*words, '--method', 'unet', '--model', where / 'out_diffdenoise'],
        tmp_path,
        'holds a model of diffdenoise',
    )
    refused(
        cli,
        [*words, '--model', where / 'out_diffdenoise', '--preset', 'paper'],
        tmp_path,
        'trained with the preset tiny',
    )
    refused(cli, [*words, '--model', tmp_path / 'nowhere'], tmp_path, 'no such model folder')
    shutil.copytree(where / 'out_diffdenoise', tmp_path / 'bad')
    (tmp_path / 'bad' / 'model.safetensors').write_bytes(
        (tmp_path / 'bad' / 'model.safetensors').read_bytes()[:-1] + b'x'
    )
    refused(cli, [*words, '--model', tmp_path / 'bad'], tmp_path, 'checksum')


def test_training_takes_no_clean_scans(where, cli, tmp_path):
    refused(
        cli,
        [
            'train',
            'diffdenoise',
            where / 'noisy.nii.gz',
            '--clean',
            where / 'out.nii.gz',
            '--out',
            tmp_path / 'm',
            *TINY,
        ],
        tmp_path,
        'without --clean',
    )


def test_a_scan_of_too_few_slices_for_the_context(where, small, cli, tmp_path):
    assert (
        cli(
            'train',
            'diffdenoise',
            where / 'noisy.nii.gz',
            '--out',
            tmp_path / 'm',
            *TINY,
            *SHORT,
            '--set',
            'context',
            1,
        ).code
        == 0
    )
    assert cli(
        'denoise', where / 'noisy.nii.gz', tmp_path / 'a.nii', '--model', tmp_path / 'm'
    ).code == 0 and values(tmp_path / 'a.nii').shape == (37, 44, 6)
    refused(
        cli,
        [
            'denoise',
            put(tmp_path / 'in.nii', noisy_of(small[..., :1])),
            tmp_path / 'out.nii',
            '--model',
            tmp_path / 'm',
        ],
        tmp_path,
        'slices on each side',
    )


# Noise


def zero_filled(clean, level, kept, n=96):
    "Magnitude of a scan whose k-space was filled with zeros along one axis"
    z = torch.zeros(clean.shape[2], n, n)
    a, b = ((n - s) // 2 for s in clean.shape[:2])
    z[:, a : a + clean.shape[0], b : b + clean.shape[1]] = torch.as_tensor(clean).permute(2, 0, 1)
    k = fft2c(z)[:, n // 2 - kept // 2 : n // 2 - kept // 2 + kept] * (kept / n) ** 0.5
    return (
        ifft2c(zero_fill(add_kspace_noise(k, level, generator(0)), (n, n)))
        .abs()
        .permute(1, 2, 0)
        .numpy()
    )


def test_zero_filled_noise_is_refused_by_the_gate(brain, cli, tmp_path):
    put(tmp_path / 'in.nii', zero_filled(brain[..., :6], 0.05, 64))
    words = ['denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE, *SHORT]
    refused(cli, words, tmp_path, 'zeros')
    got = cli(*words, '--set', 'gate', 'warn')
    notes = ' '.join(read_json(tmp_path / 'out.json')['Notes'])
    assert (
        got.code == 0
        and 'told to warn only' in notes
        and 'blind square of 9 x 9 pixels' in notes
        and 'told to warn only' in got.err
    )


def test_correlated_noise_enlarges_the_blind_square(brain, cli, tmp_path):
    put(tmp_path / 'clean.nii', brain, np.diag([2.0, 2, 2, 1]))
    assert (
        cli(
            'simulate',
            tmp_path / 'clean.nii',
            tmp_path / 'in.nii',
            '--snr',
            12,
            '--correlation',
            1.4,
        ).code
        == 0
    )
    assert (
        cli('denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE, *SHORT, '--quiet').code
        == 0
    )
    notes = ' '.join(read_json(tmp_path / 'out.json')['Notes'])
    assert (
        'neighbours predict' in notes
        and 'blind square of' in notes
        and read_json(tmp_path / 'out_diffdenoise' / 'config.json')['learned']['side'] > 1
    )
    assert cli(
        'denoise', tmp_path / 'in.nii', tmp_path / 'three.nii', *DENOISE, *SHORT, '--set', 'side', 3
    ).code == 0 and 'blind square of 3 x 3' in ' '.join(read_json(tmp_path / 'three.json')['Notes'])


def test_white_noise_leaves_the_pixel_alone(brain, cli, tmp_path):
    put(tmp_path / 'in.nii', noisy_of(brain))
    got = cli('denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE, *SHORT)
    assert (
        got.code == 0
        and 'blind square' not in got.err
        and read_json(tmp_path / 'out_diffdenoise' / 'config.json')['learned']['side'] == 1
    ), got.err


def test_noise_curve(brain, cli, tmp_path):
    (
        put(tmp_path / 'in.nii', noisy_of(brain[..., :2], 200**-0.5, 'poisson')),
        put(tmp_path / 'neg.nii', noisy_of(brain[..., :2], kind='gaussian')),
    )
    got = cli(
        'denoise',
        tmp_path / 'in.nii',
        tmp_path / 'out.nii',
        *DENOISE,
        *SHORT,
        '--set',
        'noise',
        'curve',
        '--noise-map',
        tmp_path / 's.nii',
        '--std',
        tmp_path / 'std.nii',
    )
    sigma, out = values(tmp_path / 's.nii'), values(tmp_path / 'out.nii')
    assert (
        got.code == 0
        and 'variance of the noise' in got.err
        and np.isfinite(values(tmp_path / 'std.nii')).all()
    ), got.err
    assert sigma.shape == out.shape and np.median(sigma[out > 0.7]) > 1.2 * np.median(
        sigma[out < 0.1]
    ), 'stronger where it is bright'
    got = cli(
        'denoise', tmp_path / 'neg.nii', tmp_path / 'n.nii', '--model', tmp_path / 'out_diffdenoise'
    )
    assert got.code == 0 and 'variance of the noise' in got.err, got.err


def test_negative_values(brain, where, cli, tmp_path):
    noisy = noisy_of(brain[..., :2], kind='gaussian')
    put(tmp_path / 'in.nii', noisy)
    got = cli('denoise', tmp_path / 'in.nii', tmp_path / 'out.nii', *DENOISE, *SHORT)
    air = brain[..., :2] < 0.02
    assert (
        noisy.min() < 0
        and got.code == 0
        and abs(read_json(tmp_path / 'out.json')['Sigma'] / 0.05 - 1) < 0.1
    ), got.err
    assert (
        read_json(tmp_path / 'out_diffdenoise' / 'config.json')['learned']['kind'] == 'additive'
        and abs(values(tmp_path / 'out.nii')[air].mean()) < 0.02
    ), 'no magnitude bias, no floor'
    for words in (
        [*DENOISE, '--set', 'noise', 'magnitude'],
        ['--model', where / 'out_diffdenoise'],
    ):
        refused(
            cli,
            ['denoise', tmp_path / 'in.nii', tmp_path / 'b.nii', *words],
            tmp_path,
            'negative values',
        )


@pytest.mark.parametrize('noise', ['gaussian 13/255', 'rician 13/255', 'poisson 200', 'gamma 100'])
def test_noises_of_the_article(noise):
    t = image_task(noise=noise, slices=3, crop=80)
    d = Denoiser(
        'diffdenoise', 'tiny', quiet=True, device='cpu', noise=t.kind, steps1=4, steps2=2, steps=4
    )
    result = d.fit(t.noisy).denoise(t.noisy)
    assert (
        np.isfinite(result.denoised.data).all()
        and result.denoised.shape == t.noisy.shape
        and (np.asarray(result.sigma) > 0).all()
        and np.isfinite(result.std).all()
    )
    assert (
        d.learned['kind'] == t.kind
        and np.corrcoef(result.denoised.data[t.tissue], t.clean[t.tissue])[0, 1] > 0.5
    )


# Python


def test_python_save_and_load(where, tmp_path, monkeypatch):
    scan = Scan.load(where / 'noisy.nii.gz')
    d = Denoiser('diffdenoise', preset='tiny', quiet=True, device='cpu').fit(scan)
    out = d.denoise(scan)
    assert (
        out.std.shape == out.denoised.shape == scan.shape
        and abs(out.sigma / 0.05 - 1) < 0.2
        and np.array_equal(out.denoised.data, values(where / 'out.nii.gz'))
    )
    d.save(tmp_path / 'm')
    assert {p.name for p in (tmp_path / 'm').iterdir()} == {'model.safetensors', 'config.json'}

    def unpickled(*a, **k):
        raise AssertionError('unpickled')

    for module, name in (
        (pickle, 'load'),
        (pickle, 'loads'),
        (pickle, 'Unpickler'),
        (torch, 'load'),
    ):
        monkeypatch.setattr(module, name, unpickled)
    loaded = Denoiser.load(tmp_path / 'm', device='cpu', quiet=True)
    again = loaded.denoise(scan)
    assert (
        np.array_equal(again.denoised.data, out.denoised.data)
        and np.array_equal(again.std, out.std)
        and loaded.learned == d.learned
    )
    assert set(load_file(tmp_path / 'm' / 'model.safetensors')) == set(d.net.state_dict())


def test_python_of_arrays_and_errors(small):
    x = noisy_of(small)
    d = Denoiser('diffdenoise', 'tiny', quiet=True, device='cpu', steps1=2, steps2=2, steps=2)
    with pytest.raises(InputError, match='has not learned yet'):
        d.apply(Scan.from_array(x))
    with pytest.raises(InputError, match='without clean'):
        d.fit(x, x)
    with pytest.raises(InputError, match='at least 16'):
        d.fit(x[:, :9])
    with pytest.raises(InputError, match='at least 16'):
        d.fit(x, sigma=0.05).denoise(x[:, :9], sigma=0.05)
    before = x.copy()
    assert d.denoise(
        x, sigma=np.full(x.shape, 0.05, np.float32)
    ).denoised.shape == x.shape and np.array_equal(x, before)
    assert fit_diffdenoise([x], None, d.config | dict(steps1=1, steps2=0, steps=1), quiet=True)[1][
        'weights'
    ].keys() == {'own'}


def test_a_sigma_map_may_be_zero_outside_the_object():
    rng = np.random.default_rng(0)
    level = np.zeros((32, 32, 4), np.float32)
    level[10:20, 10:20] = 2.0
    unit, _ = unit_of(
        np.abs(rng.normal(50, 2, level.shape)).astype(np.float32),
        level,
        chosen(DIFFDENOISE_PRESETS['tiny']),
    )
    assert np.all(unit.sigma == 2.0)
    with pytest.raises(InputError, match='no noise'):
        unit_of(
            np.ones((32, 32, 4), np.float32), 0 * level + 1e-9, chosen(DIFFDENOISE_PRESETS['tiny'])
        )


def test_the_risk_is_not_asked_where_there_is_no_noise():
    gen = torch.Generator().manual_seed(0)
    z, probe = torch.randn(4, 1, 32, 32, generator=gen), torch.randn(4, 1, 32, 32, generator=gen)
    valid = torch.ones_like(z)
    valid[..., 16:] = 0
    z[..., 16:] = 0

    def cheat(x):
        return torch.cat(
            [x[..., :16], -1000 * x[..., 16:]], -1
        )  # same image, as steep as one likes in the blank half

    batch = dict(noisy=z, target=z, probe=probe)
    honest, cheating = (
        float(copy_teacher(1.0)(f, batch | dict(valid=valid))) for f in (lambda x: x, cheat)
    )
    assert honest == cheating and abs(honest - 2) < 0.2
    assert float(copy_teacher(1.0)(cheat, batch)) < -100
