"The local Wiener filter of a series: what it must give, leave alone and refuse"

from functools import partial

import numpy as np
import pytest

from mri_diffusion.app.denoiser import Denoiser, denoise
from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.scores import psnr
from mri_diffusion.methods import wiener
from mri_diffusion.methods.unet_pca import denoise_unet_pca
from mri_diffusion.methods.wiener import denoise_wiener, shrink_scores
from mri_diffusion.noise.models import add_noise, add_rician_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

both = pytest.mark.parametrize(  # What every method in components owes
    'run', [denoise_wiener, partial(denoise_unet_pca, quiet=True, probes=1)], ids=['wiener', 'unet']
)


@pytest.fixture(scope='module')
def made():
    "Clean scan, noisy series, sigma"
    scan, _ = simulate_dmri(*make_gradients({1000: 12}, n_b0=2), shape=(32, 36, 8))
    return scan, add_rician_noise(scan.data, 60.0, generator(0)), 60.0


def test_told_or_not_it_gains_and_says_its_level(made):
    scan, noisy, sigma = made
    mapped, told = (denoise_wiener(noisy, s, scan.mask, scan.bvals) for s in (None, sigma))
    before = psnr(noisy, scan.data, scan.mask)
    for found in (mapped, told):
        assert psnr(found['denoised'], scan.data, scan.mask) > before + 6
        assert found['std'].shape == noisy.shape and (found['std'] >= 0).all()
    assert np.median(mapped['sigma_found'][scan.mask]) == pytest.approx(sigma, rel=0.1)


def test_the_stated_std_is_that_of_the_error(made):
    scan, noisy, sigma = made
    found = denoise_wiener(noisy, sigma, scan.mask, scan.bvals)
    error = np.abs(found['denoised'] - scan.data)[scan.mask]
    assert 0.5 < (error < found['std'][scan.mask]).mean() < 0.85


@both
def test_real_channels_keep_their_sign(run):
    rng = np.random.default_rng(0)
    clean = np.linspace(-4, 4, 16)[:, None, None, None] * np.ones((1, 20, 8, 14))
    clean = clean * np.cos(np.arange(14))
    noisy = clean + rng.normal(size=clean.shape)
    found = run(noisy.astype(np.float32), 1.0)['denoised']
    assert np.corrcoef(found.ravel(), clean.ravel())[0, 1] > 0.98
    assert abs(np.mean(found - clean)) < 0.03


@both
def test_eight_coils_are_told(made, run):
    scan, _, sigma = made
    noisy = add_noise(scan.data, sigma, 'ncchi', 8, gen=generator(1))
    found = run(noisy, sigma, scan.mask, scan.bvals, n_coils=8)['denoised']
    bias = lambda x: abs((x - scan.data)[scan.mask].mean()) / sigma
    assert bias(found) < 0.25 * bias(noisy)


@both
def test_constant_volumes_and_the_outside_come_back_as_they_were(made, run):
    scan, noisy, sigma = made
    x = noisy.copy()
    x[..., 3] = 7.0
    mask = scan.mask.copy()
    mask[:8] = False
    found = run(x, sigma, mask, scan.bvals)
    assert (found['denoised'][..., 3] == 7).all() and (found['std'][..., 3] == 0).all()
    assert (found['denoised'][~mask] == x[~mask]).all()
    assert any('constant' in n for n in found['notes'])


def test_slabs_do_not_matter(made, monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(12, 14, 30, 3)).astype(np.float32)
    scores += np.linspace(0, 9, 30, dtype=np.float32)[:, None]
    weights = (rng.random((12, 14, 30)) > 0.2).astype(np.float32)
    basis = np.linalg.qr(rng.normal(size=(6, 3)))[0].astype(np.float32)
    whole = shrink_scores(scores, weights, basis)
    monkeypatch.setattr(wiener, '_MOST', 4.0 * 12 * 14 * 9 * 3)  # Three slices at a time
    for a, b in zip(whole, shrink_scores(scores, weights, basis)):
        assert np.allclose(a, b, atol=1e-3)
    assert not whole[0][weights == 0].any()


@both
@pytest.mark.parametrize('volumes', [2, 6, 11])
def test_few_volumes(made, volumes, run):
    scan, noisy, sigma = made
    found = run(noisy[..., :volumes], sigma, scan.mask)['denoised']
    clean = scan.data[..., :volumes]
    assert psnr(found, clean, scan.mask) > psnr(noisy[..., :volumes], clean, scan.mask) + 2


def test_more_signal_than_noise_is_left(made):
    scan, noisy, _ = made
    found = denoise_wiener(scan.data.astype(np.float32), 0.02, scan.mask)
    assert np.abs(found['denoised'] - scan.data)[scan.mask].max() < 0.5


def test_refused_in_one_line(made):
    scan, noisy, _ = made
    tries = {
        'every volume of the series is constant': lambda: denoise_wiener(0 * noisy),
        'wiener: sigma of shape': lambda: denoise_wiener(noisy, np.ones(14)),
        'the mask holds': lambda: denoise_wiener(noisy, 1.0, 0 * scan.mask),
        'modes of 14 volumes': lambda: denoise_wiener(noisy, 60.0, scan.mask, modes=15),
        'wiener: scan of shape': lambda: denoise(noisy[..., 0], method='wiener'),
    }
    for said, call in tries.items():
        with pytest.raises(InputError, match=said) as e:
            call()
        assert '\n' not in str(e.value)


def test_as_a_method_it_gives_an_uncertainty(made):
    scan, noisy, _ = made
    found = Denoiser('wiener').denoise(scan.with_data(noisy), needs_std=True)
    assert found.std.shape == noisy.shape and found.sigma is not None
    assert found.meta['config'] == dict(width=1.2, modes=0, n_coils=1)
