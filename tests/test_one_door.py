"`Denoiser` in Python and `denoise` at the command line: same arrays, notes, warnings and records"

import subprocess
import sys

import numpy as np
import pytest

from mri_diffusion import Denoiser, Method, Scan, register
from mri_diffusion.core import generator, read_json
from mri_diffusion.methods import registry
from mri_diffusion.methods.registry import get_method
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1, make_gradients, simulate_dmri

STEPS = dict(steps=4, steps1=4, steps2=2, steps3=4, checkpoint_every=2)
NAMES = [*registry._OURS, *registry.CLASSICAL]


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "A volume and a series, clean and noisy; the noise of the volume is shared by neighbours"
    d = tmp_path_factory.mktemp('scans')
    t1 = load_t1(downsample=6)
    t1.save(d / 'clean.nii.gz')
    noisy = t1.with_data(add_noise(t1.data, 0.05, correlation=0.8, gen=generator(0)))
    noisy.save(d / 'volume.nii.gz')
    truth, _ = simulate_dmri(*make_gradients({1000: 12}, 4), shape=(24, 24, 8), voxel_size=4.0)
    level = float(truth.data.max()) / 20
    truth.with_data(add_noise(truth.data, level, gen=generator(1))).save(d / 'series.nii.gz')
    return d


def settings_of(name):
    "Few steps, where a method counts any"
    known = get_method(name).presets['tiny']
    return {k: v for k, v in STEPS.items() if k in known}


def record_of(path):
    "The record beside a scan, without what names the file, the command and the machine"
    own = ('Sources', 'Environment', 'GeneratedBy', 'Request')
    return {k: v for k, v in read_json(path).items() if k not in own}


def by_command(cli, path, out, name, *more):
    words = ['denoise', path, out, '--method', name, '--preset', 'tiny', *more]
    for k, v in settings_of(name).items():
        words += ['--set', k, v]
    got = cli(*words)
    assert got.code == 0, got.err
    return Scan.load(out), [x.removeprefix('note: ') for x in got.err.splitlines() if 'note: ' in x]


def alike(cli, tmp_path, path, name, words=(), **options):
    "Denoise both ways; the result of Python"
    scan, notes = by_command(cli, path, tmp_path / 'by_command.nii.gz', name, *words)
    result = Denoiser(name, 'tiny', **settings_of(name)).denoise(Scan.load(path), **options)
    result.save(tmp_path / 'by_python.nii.gz')
    assert np.array_equal(scan.data, result.denoised.data)
    assert notes == result.meta['notes']
    records = [record_of(tmp_path / f'by_{k}.json') for k in ('command', 'python')]
    assert records[0] == records[1]
    return result


@pytest.mark.parametrize('name', [n for n in NAMES if get_method(n).needs != 'pairs'])
def test_a_method_gives_the_same_by_both_doors(cli, scans, tmp_path, name):
    is_series = 3 not in get_method(name).dims
    alike(cli, tmp_path, scans / ('series.nii.gz' if is_series else 'volume.nii.gz'), name)


@pytest.mark.parametrize('name', [n for n in NAMES if get_method(n).needs == 'pairs'])
def test_a_supervised_method_gives_the_same_by_both_doors(cli, scans, tmp_path, name):
    model, noisy = tmp_path / 'model', scans / 'volume.nii.gz'
    train = ['train', name, noisy, '--clean', scans / 'clean.nii.gz', '--out', model]
    assert cli(*train, '--preset', 'tiny', '--steps', '4').code == 0
    words = [noisy, tmp_path / 'a.nii.gz', '--model', model, '--sigma', '0.05']
    assert cli('denoise', *words).code == 0
    result = Denoiser.load(model).denoise(noisy, 0.05)
    assert np.array_equal(Scan.load(tmp_path / 'a.nii.gz').data, result.denoised.data)
    assert read_json(tmp_path / 'a.json')['Notes'] == result.meta['notes']


@pytest.mark.parametrize('how', ['correct', 'restore'])
def test_the_bias_field_is_taken_out_by_both_doors(cli, scans, tmp_path, how):
    result = alike(
        cli, tmp_path, scans / 'volume.nii.gz', 'blur', ['--bias-field', how], bias_field=how
    )
    assert result.meta['bias_field'] == how and 'bias field (N4)' in result.meta['notes'][-1]


def test_a_setting_is_chosen_by_both_doors(cli, scans, tmp_path):
    path, words = scans / 'volume.nii.gz', ['--choose', 'width', '0.3,0.7', '--sigma', '0.05']
    choose = dict(width=(0.3, 0.7))
    result = alike(cli, tmp_path, path, 'blur', words, sigma=0.05, choose=choose)
    assert any('width = ' in n for n in result.meta['notes'])


def test_choosing_leaves_the_denoiser_as_it_was(scans):
    d = Denoiser('blur')
    before = dict(d.config)
    d.denoise(scans / 'volume.nii.gz', 0.05, choose=dict(width=(0.3, 1.5)))
    assert d.config == before


def test_a_model_is_made_continued_and_used_by_both_doors(cli, scans, tmp_path):
    path, model = scans / 'series.nii.gz', tmp_path / 'model'
    scan, _ = by_command(cli, path, tmp_path / 'a.nii.gz', 'r2r', '--model', model)
    used = Denoiser('r2r').denoise(path, model=model)
    again = Denoiser.load(model).denoise(path)
    assert np.array_equal(used.denoised.data, scan.data) and used.meta['preset'] == 'tiny'
    assert np.array_equal(again.denoised.data, scan.data)


def test_the_level_is_estimated_once(scans, monkeypatch):
    from mri_diffusion.app import noise_checks

    calls, estimate = [], noise_checks.estimate_sigma
    monkeypatch.setattr(
        noise_checks, 'estimate_sigma', lambda *a, **k: calls.append(1) or estimate(*a, **k)
    )
    Denoiser('nlmeans').denoise(scans / 'volume.nii.gz', needs_level=True)
    assert len(calls) == 1


def test_a_model_is_not_read_back_before_it_is_used(cli, scans, tmp_path, monkeypatch):
    from mri_diffusion.app import denoiser

    def never(*args):
        raise AssertionError('the model was loaded')

    monkeypatch.setattr(denoiser, 'read_model', never)
    by_command(cli, scans / 'series.nii.gz', tmp_path / 'a.nii.gz', 'r2r')
    assert (tmp_path / 'a_r2r' / 'model.safetensors').is_file()


@pytest.mark.usefixtures('cold')
def test_a_filter_loads_no_network(scans, tmp_path):
    code = (
        'import sys; from mri_diffusion.app.cli import main; main(sys.argv[1:]); '
        'print([m for m in ("monai", "papermill") if m in sys.modules])'
    )
    words = ['denoise', scans / 'volume.nii.gz', tmp_path / 'a.nii.gz', '--method', 'blur']
    call = [sys.executable, '-c', code, *map(str, words)]
    run = subprocess.run(call, capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith('[]'), run.stdout


@pytest.fixture
def foreign():
    "A method of another package, which assumes what ours do"
    method = Method(
        'foreign',
        'An example',
        'nothing',
        'nothing',
        lambda data, sigma, **facts: dict(denoised=data),
        assumes=('voxels',),
    )
    register(method)
    yield method
    del registry._registry['foreign']


def test_a_method_of_another_package_gets_the_same_warnings(cli, scans, tmp_path, foreign):
    path = scans / 'volume.nii.gz'
    theirs = alike(cli, tmp_path, path, 'foreign').meta['notes']
    ours = Denoiser('nlmeans', 'tiny').denoise(path, 0.05).meta['notes']
    warned = [[n for n in notes if 'assumes noise independent' in n] for notes in (theirs, ours)]
    assert len(warned[0]) == 1
    assert warned[0][0].replace('foreign', 'nlmeans') == warned[1][0]


def test_it_is_named_by_the_command_that_describes_the_noise(cli, scans, foreign):
    said = cli('noise', scans / 'volume.nii.gz').out
    assert 'foreign' in next(x for x in said.splitlines() if 'between voxels' in x)
