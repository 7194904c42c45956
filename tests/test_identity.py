"Every method for series gives back each volume as a picture of itself, and of no other"

import numpy as np
import pytest

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.judge.truth import make_truth
from mri_diffusion.methods.classical import nearest_volumes
from mri_diffusion.methods.registry import methods
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

SERIES = [name for name, m in methods().items() if 4 in m.dims and m.needs in ('nothing', 'scan')]


@pytest.fixture(scope='module')
def known():
    scan, _ = simulate_dmri(*make_gradients({1000: 22}, n_b0=2), shape=(24, 28, 8))
    return make_truth(scan, 20, 0)


def test_the_list_holds_the_4d_methods():
    assert {'mppca', 'patch2self', 'ddm2', 'r2r'} <= set(SERIES)


@pytest.mark.parametrize('name', SERIES)
def test_volumes_keep_their_identity(name, known):
    d = Denoiser(name, preset='tiny', quiet=True)
    if d.method.learns:
        d.fit(known.noisy)
    sigma = known.sigma if d.method.needs_sigma else None
    out = d.denoise(known.noisy, sigma=sigma, mask=known.mask).denoised.data
    assert out.shape == known.noisy.shape and np.isfinite(out).all()
    weighted = np.flatnonzero(~known.noisy.is_b0)
    nearest = nearest_volumes(out[..., weighted], known.noisy.data[..., weighted], known.mask)
    assert (nearest == np.arange(len(weighted))).all()


def test_swapped_volumes_are_noticed(known):
    swapped = known.noisy.data[..., [0, 1, 3, 2, *range(4, 24)]]
    assert nearest_volumes(swapped, known.noisy.data, known.mask)[2:4].tolist() == [3, 2]
