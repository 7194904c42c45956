"What the libraries below do with our maps and settings"

import inspect

import numpy as np
import pytest

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.residual import slice_rmse
from mri_diffusion.judge.scores import residual_stats
from mri_diffusion.learn.risk import sure
from mri_diffusion.methods.classical import CLASSICAL, nlmeans
from mri_diffusion.methods.registry import methods
from mri_diffusion.noise.models import add_noise
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def rimmed():
    "An object of 100 with a rim of 12.4, noise 10; a map of sigma that is 0 in the rim"
    clean = np.full((28, 28, 10), 12.4, np.float32)
    clean[6:-6, 6:-6, 2:-2] = 100
    level = np.where(clean > 50, 10.0, 0.0)
    return np.asarray(add_noise(clean, 10.0, gen=generator(0)), np.float32), level


@pytest.mark.parametrize('variant', ['classic', 'blockwise'])
def test_nlmeans_leaves_voxels_whose_sigma_is_zero(rimmed, variant):
    noisy, level = rimmed
    noisy, level = noisy.copy(), level.copy()
    noisy.flags.writeable = level.flags.writeable = False
    found, rim = nlmeans(noisy, level, variant=variant), level == 0
    assert np.array_equal(found[rim], noisy[rim])
    assert (found[~rim] != noisy[~rim]).all()
    everywhere = nlmeans(noisy, 10.0, variant=variant)
    assert abs(everywhere[rim].mean() - noisy[rim].mean()) > 3


@pytest.mark.parametrize('name', [k for k, m in CLASSICAL.items() if 3 in m['dims']])
def test_every_filter_leaves_voxels_whose_sigma_is_zero(rimmed, name):
    noisy, level = rimmed
    result = Denoiser(name, quiet=True).denoise(noisy, sigma=level)
    rim, share = level == 0, f'{(level == 0).mean():.0%}'
    assert np.array_equal(result.denoised.data[rim], noisy[rim])
    assert any(n.startswith(f'sigma is 0 in {share}') for n in result.meta['notes'])


def series_of(noisy, n=8):
    return np.stack([noisy + i for i in range(n)], -1)


@pytest.mark.parametrize(
    'name', ['ddm2', 'r2r', 'diffdenoise', 'noise2score', 'corruption2self', 'mppca', 'patch2self']
)
def test_every_method_leaves_voxels_whose_sigma_is_zero(name):
    clean = np.full((20, 20, 6, 9), 100, np.float32) * np.linspace(1, 0.6, 9, dtype=np.float32)
    noisy = np.asarray(add_noise(clean, 10.0, gen=generator(0)), np.float32)
    level = np.where(np.arange(20) < 5, 0.0, 10.0)[:, None, None] * np.ones(clean.shape[:3])
    bvecs = np.random.default_rng(0).normal(size=(9, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    tables = dict(bvals=np.r_[0.0, [1000.0] * 8], bvecs=bvecs)
    data = noisy if methods()[name].dims == (4,) else noisy[..., 0]
    scan = Scan.from_array(data, **(tables if data.ndim == 4 else {}))
    result = Denoiser(name, 'tiny', quiet=True).denoise(scan, sigma=level)
    assert np.array_equal(result.denoised.data[:5], data[:5])
    assert (result.denoised.data[5:] != data[5:]).mean() > 0.8
    if result.std is not None:
        assert not result.std[:5].any()


def test_a_volume_whose_sigma_is_zero_stays(rimmed):
    series, sigma = series_of(rimmed[0], 3), np.array([10.0, 0.0, 10.0])
    found = Denoiser('nlmeans', quiet=True).denoise(series, sigma=sigma).denoised.data
    assert np.array_equal(found[..., 1], series[..., 1])
    assert (found[..., 0] != series[..., 0]).all()


def test_judges_leave_out_voxels_whose_sigma_is_zero(rimmed):
    noisy, level = rimmed
    denoised, inside = np.where(level > 0, 100, noisy), level > 0
    part = residual_stats(noisy - denoised, level)
    assert part['std'] == residual_stats(noisy - denoised, 10.0, inside)['std']
    assert np.allclose(
        slice_rmse(noisy, denoised, None, 2, level)[2:-2],
        slice_rmse(noisy, denoised, inside, 2, 10.0)[2:-2],
    )
    risk = sure(lambda y: np.where(level > 0, 100.0, y), noisy, level)
    assert abs(risk.residual - risk.value - (level**2).mean()) < 1
    with pytest.raises(InputError, match='sigma'):
        residual_stats(noisy - denoised, 0 * level)
    with pytest.raises(InputError, match='sigma'):
        sure(np.copy, noisy, 0 * level)


def test_a_map_that_an_estimator_made_is_kept_too(rimmed):
    clean = np.where(rimmed[1] > 0, 100, 12.4).astype(np.float32)
    draws = [add_noise(clean, 10.0, gen=generator(i)) for i in range(4)]
    series = np.stack(draws, -1).astype(np.float32)
    mask = clean > 50
    result = Denoiser('nlmeans', quiet=True).denoise(series, sigma=10.0 * mask)
    assert np.array_equal(result.denoised.data[~mask], series[~mask])
    level = estimate_sigma(series, 'repeats', bvals=np.zeros(4)).map(series.shape[:3])
    result = Denoiser('nlmeans', quiet=True).denoise(series, sigma=level)
    free = np.broadcast_to(level[..., None] == 0, series.shape)
    assert np.array_equal(result.denoised.data[free], series[free])


def test_nlmeans_has_no_limit_in_absolute_units(rimmed):
    noisy, _ = rimmed
    for variant in ('classic', 'blockwise'):
        usual = nlmeans(noisy, 10.0, variant=variant)
        for k in (1e-6, 1e6):
            scaled = nlmeans(noisy * np.float32(k), 10.0 * k, variant=variant) / k
            assert np.abs(scaled - usual).max() < 0.05


def test_the_variant_can_be_set():
    d = Denoiser('nlmeans', variant='blockwise')
    assert d.config['variant'] == 'blockwise'
    with pytest.raises(InputError, match="variant 'fast'"):
        Denoiser('nlmeans', variant='fast').denoise(np.ones((8, 8, 8)) + np.eye(8), sigma=0.1)
