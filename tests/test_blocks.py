"A series is worked on block by block: the result is that of one piece"

import numpy as np
import pytest

from mri_diffusion.core import generator
from mri_diffusion.methods.unet_pca import denoise_unet_pca
from mri_diffusion.methods.wiener import denoise_wiener
from mri_diffusion.noise.components import row_blocks, series_sigma
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri


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
