"Small scans, their masks and a trained model, made once; and the command line in this process"

# ruff: noqa: E402  (the threads are set before numpy is loaded)
import os

for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(name, '1')

import shutil
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from mri_diffusion.app.cli import main
from mri_diffusion.app.jobs import simulate_scan, train_method
from mri_diffusion.phantoms.heads import load_t1, make_gradients, simulate_dmri
from mri_diffusion.scans.nifti import Scan

# `make test` has a Python that starts with PyTorch imported (tools/warm.py): tests start processes by it
sys.executable = os.environ.get('WARM_PYTHON', sys.executable)


# The longest files begin first, so that no process is left alone with one of them at the end
LONG = 'on_gpu accelerate memory gpu_script cli batch diffdenoise ddm2 selfsup bench experiments course'
FIRST = {f'test_{name}': i for i, name in enumerate(LONG.split())}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.get(item.path.stem, len(FIRST)))


@pytest.fixture(autouse=True)
def quiet_as_before():
    "Who asks for quiet ends that: the notes of the next test would be missing"
    before = os.environ.get('MRI_DIFFUSION_QUIET')
    yield
    assert os.environ.get('MRI_DIFFUSION_QUIET') == before


@pytest.fixture
def cold(monkeypatch):
    "Processes begin from nothing: for tests of what is imported, of memory, of missing packages"
    monkeypatch.setenv('COLD_PYTHON', '1')


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    "Files that no test changes"
    d = tmp_path_factory.mktemp('made')
    t1 = load_t1(downsample=7)
    t1.save(d / 'clean.nii.gz')
    t1.with_data(t1.mask.astype(np.float32)).save(d / 'mask.nii.gz')
    simulate_scan(d / 'clean.nii.gz', d / 'noisy.nii.gz', snr=15)
    series, _ = simulate_dmri(*make_gradients({1000: 6}, 2), shape=(14, 16, 12), voxel_size=None)
    series.save(d / 'series_clean.nii.gz')
    simulate_scan(d / 'series_clean.nii.gz', d / 'series.nii.gz', snr=20)
    with mock.patch.dict(os.environ, MRI_DIFFUSION_QUIET='1'):
        pair = [d / 'noisy.nii.gz'], d / 'model', [d / 'clean.nii.gz']
        train_method('unet', *pair, 'tiny', steps=3)
    return d


@pytest.fixture
def files(made, tmp_path):
    "The same files in a folder of the test's own"
    shutil.copytree(made, tmp_path / 'f')
    return tmp_path / 'f'


@pytest.fixture
def cli(capsys):
    "cli(words...) -> code, out, err"

    def call(*words):
        capsys.readouterr()
        code = main(words)
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return call


@pytest.fixture
def noisy(made):
    return Scan.load(made / 'noisy.nii.gz')
