"""A denoising of a series takes three times the series and a constant; blocks change nothing."""

import sys

import numpy as np
import pytest

from mri_diffusion.core import generator
from mri_diffusion.methods.unet_pca import denoise_unet_pca
from mri_diffusion.methods.wiener import denoise_wiener
from mri_diffusion.noise.components import row_blocks, series_sigma
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

sys.path.insert(0, 'tools')
import memory  # noqa: E402

THIN, THICK = (96, 96, 12, 33), (96, 96, 40, 33)
MOST = 3.0  # Times the bytes of the series as float32


@pytest.fixture(scope='module')
def noisy():
    bvals, bvecs = make_gradients({1000: 12}, n_b0=2)
    scan, _ = simulate_dmri(bvals, bvecs, (30, 36, 10))
    return np.asarray(add_noise(scan.data, 40.0, gen=generator(0))), bvals


@pytest.mark.parametrize('denoise', [denoise_wiener, denoise_unet_pca])
@pytest.mark.parametrize('order', 'CF')
def test_blocks_do_not_matter(noisy, denoise, order, monkeypatch):
    x, bvals = np.array(noisy[0], order=order), noisy[1]
    before = x.copy()
    monkeypatch.setattr(row_blocks, '__defaults__', (x.size,))
    assert len(row_blocks(x.shape)) == 1
    whole = denoise(x, bvals=bvals)
    monkeypatch.setattr(row_blocks, '__defaults__', (1,))
    assert len(row_blocks(x.shape)) == 30
    plane = denoise(x, bvals=bvals)
    assert (x == before).all()
    for key in ('denoised', 'sigma_found'):
        assert np.allclose(whole[key], plane[key], rtol=1e-4, atol=0.04), key
    assert whole['notes'] == plane['notes']


def test_level_needs_no_whole_copies(noisy, monkeypatch):
    whole = series_sigma(noisy[0])[0]
    monkeypatch.setattr(row_blocks, '__defaults__', (1,))
    assert np.allclose(series_sigma(noisy[0])[0], whole, rtol=1e-4)


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    folders = {}
    for shape in (THIN, THICK):
        folders[shape] = tmp_path_factory.mktemp('x'.join(map(str, shape)))
        memory.make(folders[shape], shape)
    return folders


@pytest.mark.parametrize(
    'method', ['wiener', ['unet_pca', '--set', 'copies', '1'], ['wiener', '--std', 'std.nii']]
)
def test_three_times_the_series(scans, method):
    method = [method] if isinstance(method, str) else method
    command = ['denoise', 'noisy.nii', 'out.nii', '--residual', 'res.nii', '--method', *method]
    peaks = {}
    for shape, folder in scans.items():
        peaks[shape], _, said = memory.measure(command, folder)
        assert not said
    size = {shape: 4 * np.prod(shape) / 2**20 for shape in scans}
    slope = (peaks[THICK] - peaks[THIN]) / (size[THICK] - size[THIN])
    assert slope <= MOST + ('--std' in command), (peaks, slope)
