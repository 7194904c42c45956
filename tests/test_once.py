"What one command works on, it works on once; and threads that wait let others work"

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from mri_diffusion import once
from mri_diffusion.app import denoiser, jobs, model_folder
from mri_diffusion.app.bench import bench_data
from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.methods import unit_scan
from mri_diffusion.noise import components, sigma
from mri_diffusion.scans import nifti
from mri_diffusion.scans.nifti import Scan

MEASURES = components.series_sigma, sigma.estimate_sigma, sigma.find_background, nifti.auto_mask


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A volume and a series on disk"
    place, data = tmp_path_factory.mktemp('once'), bench_data((24, 24, 16), (16, 16, 10, 13))
    for name in ('volume', 'series'):
        nib.save(nib.Nifti1Image(data[name], np.eye(4)), place / f'{name}.nii.gz')
    np.savetxt(place / 'series.bval', data['bvals'][None], fmt='%g')
    np.savetxt(place / 'series.bvec', data['bvecs'].T)
    return place


@pytest.fixture
def worked(monkeypatch):
    "(name, question) -> how often it was worked on; a question that is only answered counts not"
    seen, key = Counter(), once._key
    for f in MEASURES:
        inside = dict(zip(f.__code__.co_freevars, f.__closure__))['f']

        def counting(*args, _own=inside.cell_contents, **kwargs):
            given = args, tuple(sorted(kwargs.items()))
            seen[_own.__name__, key(given)] += 1
            return _own(*args, **kwargs)

        monkeypatch.setattr(inside, 'cell_contents', counting)
    for module, name in ((nib, 'load'), (model_folder, 'read_model'), (denoiser, 'read_model')):
        own = getattr(module, name)

        def call(*args, _own=own, _name=name, **kwargs):
            seen[_name, ()] += 1
            return _own(*args, **kwargs)

        monkeypatch.setattr(module, name, call)
    return seen


@pytest.mark.parametrize(
    'name, method, measured',
    [
        ('volume', 'unet', 'estimate_sigma'),
        ('series', None, 'series_sigma'),
        ('series', 'r2r', 'series_sigma'),
        ('series', 'diffdenoise', 'estimate_sigma'),
    ],
)
def test_a_denoising_reads_and_measures_once(folder, tmp_path, worked, name, method, measured):
    preset = 'tiny' if method in ('r2r', 'diffdenoise') else None
    out = tmp_path / 'out.nii.gz'
    jobs.denoise_scan(folder / f'{name}.nii.gz', out, method, preset=preset, device='cpu')
    levels = [n for k, n in worked.items() if k[0] == measured]
    assert levels == [1]
    again = {k[0]: n for k, n in worked.items() if n > 1}
    assert not again and worked['load', ()] == 1
    assert worked['read_model', ()] == 0  # the network that was trained is used as it is


def test_nothing_is_kept_between_two_calls(folder, worked):
    scan = Scan.load(folder / 'volume.nii.gz')
    for n in (1, 2):
        Denoiser('unet', device='cpu', quiet=True).denoise(scan)
        assert [v for k, v in worked.items() if k[0] == 'estimate_sigma'] == [n]


@pytest.mark.parametrize('method', ['unet', 'r2r'])
def test_what_is_kept_changes_no_bit(folder, monkeypatch, method):
    scan = Scan.load(folder / f'{"volume" if method == "unet" else "series"}.nii.gz')
    preset = None if method == 'unet' else 'tiny'
    run = lambda: Denoiser(method, preset, device='cpu', quiet=True).denoise(scan)
    kept = run()
    nothing = dict(get=lambda: None, set=lambda known: None, reset=lambda token: None)
    monkeypatch.setattr(once, '_kept', SimpleNamespace(**nothing))
    plain = run()
    assert kept.denoised.data.tobytes() == plain.denoised.data.tobytes()
    assert kept.meta['notes'] == plain.meta['notes']


def spins(**own):
    "GOMP_SPINCOUNT as torch finds it after `import mri_diffusion`"
    names = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'
    env = {k: v for k, v in os.environ.items() if k not in names} | own
    code = "import os, mri_diffusion; print(os.environ.get('GOMP_SPINCOUNT'))"
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    return ran.stdout.strip()


@pytest.mark.usefixtures('cold')
def test_threads_that_wait_let_others_work():
    assert spins() == '1000'
    assert spins(GOMP_SPINCOUNT='7') == '7' and spins(OMP_WAIT_POLICY='active') == 'None'


def test_no_module_imports_what_it_does_not_use():
    words = [sys.executable, '-m', 'ruff', 'check', '--select', 'F401', '--no-cache']
    package = Path(once.__file__).parent
    found = subprocess.run([*words, str(package)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize('units', [True, False])
def test_bfloat16_is_for_processors_that_have_it(monkeypatch, units):
    have = dict(avx512=True, avx512_bf16=units, amx_tile=False)
    for name, value in have.items():
        monkeypatch.setattr(torch.cpu, f'_is_{name}_supported', lambda v=value: v, raising=False)
    known = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)
    monkeypatch.setattr(torch.ops, 'mkldnn', known)
    assert unit_scan._has_bfloat16('cpu') == units
