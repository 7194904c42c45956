"What Stein's estimate adds to each band: where it must do nothing, and what it keeps"

from functools import partial

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.scores import psnr
from mri_diffusion.methods.bands import BandChange, _best, correct_bands, find_bands
from mri_diffusion.methods.pretrained import denoise_volume
from mri_diffusion.methods.shipped import load_shipped
from mri_diffusion.methods.trust import volume_std
from mri_diffusion.methods.unit_scan import denoise_unit
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.anatomy import anatomy

CLEAN = gaussian_filter(anatomy(5, 48), (0, 1.3, 0)).astype(np.float32)[:, :, :40]
CLEAN *= 100 / np.percentile(CLEAN, 99)
INSIDE = CLEAN > 20
SIGMA = 7.0
NET, _ = load_shipped('unet')


def noisy(seed=0, sigma=SIGMA, **how):
    return add_noise(CLEAN, sigma, gen=generator(seed), **how)


X = noisy()
Y = denoise_volume(NET, X, SIGMA, half=True)
GOOD, CHANGE = correct_bands(NET, X, Y, SIGMA, half=True)


def test_a_blurred_object_gains():
    assert CHANGE is not None and psnr(GOOD, CLEAN, INSIDE) > psnr(Y, CLEAN, INSIDE)


def test_a_perfect_image_stays():
    "Nothing was lost and all that was removed is noise: only chance could be added"
    rng = np.random.default_rng(0)
    truth = CLEAN / SIGMA
    z = (truth + rng.normal(size=truth.shape)).astype(np.float32)
    found = find_bands(lambda v: np.zeros_like(v), z, truth)
    assert found is not None
    added = found(truth, z - truth)
    assert np.square(added).mean() < 0.01


def test_what_was_removed_of_the_signal_comes_back():
    "A filter that is too wide: each band gets what the Wiener filter would give it, nearly"
    rng = np.random.default_rng(1)
    truth = gaussian_filter(rng.normal(size=(64, 64, 64)), 1.2)
    truth = (truth / truth.std() * 5 + 30).astype(np.float32)
    z = (truth + rng.normal(size=truth.shape)).astype(np.float32)
    wide = lambda v: gaussian_filter(v, 1.8, mode='wrap')
    better = wide(z) + find_bands(wide, z, wide(z))(wide(z), z - wide(z))
    power = gaussian_filter(np.pad([[[1.0]]], 31), 1.2, mode='wrap')
    power = np.abs(np.fft.fftn(power)) ** 2
    power *= 25 / power.mean()
    crop = lambda v: np.square(v - truth)[8:-8, 8:-8, 8:-8].mean()
    best = (power / (power + 1)).mean()  # of the noise variance, the error of the Wiener filter
    assert crop(wide(z)) > 20 * best and best < crop(better) < 1.6 * best


@pytest.mark.parametrize('told', [0.85, 1.3])
def test_a_wrong_level_brings_no_noise_back(told):
    "The right one is that of `test_a_blurred_object_gains`"
    y = denoise_volume(NET, X, told * SIGMA, half=True)
    after, _ = correct_bands(NET, X, y, told * SIGMA, half=True)
    assert psnr(after, CLEAN, INSIDE) > psnr(y, CLEAN, INSIDE) - 0.03


@pytest.mark.parametrize('width', [(0.6, 0.6, 0.0), 0.5, (0.8, 0.0, 0.0)])
def test_smoothed_noise_is_left_alone(width):
    x = noisy(1, correlation=width)
    y = denoise_volume(NET, x, SIGMA, half=True)
    after, change = correct_bands(NET, x, y, SIGMA, half=True)
    assert change is None and np.array_equal(after, y)


@pytest.mark.parametrize('cut', [(48, 48, 1), (8, 8, 8), (1, 48, 40)])
def test_too_little_signal(cut):
    part = tuple(slice(n) for n in cut)
    after, change = correct_bands(NET, X[part], Y[part], SIGMA)
    assert change is None and np.array_equal(after, Y[part])


def test_one_large_slice():
    big = np.ascontiguousarray(np.tile(CLEAN[:, :, 20], (4, 4))[..., None])
    x = add_noise(big, SIGMA, gen=generator(2))
    y = denoise_volume(NET, x, SIGMA, half=True)
    after, _ = correct_bands(NET, x, y, SIGMA, half=True)
    assert np.isfinite(after).all() and after.shape == x.shape
    assert psnr(after, big, big > 20) > psnr(y, big, big > 20) - 0.03


@pytest.mark.parametrize('x', [np.zeros((30, 30, 30)), np.full((30, 30, 30), 5.0)])
def test_nothing_to_see(x):
    x = x.astype(np.float32)
    assert correct_bands(NET, x, x, 1.0)[1] is None
    assert correct_bands(NET, x + X[:30, :30, :30], x, 0.0)[1] is None


def test_signed_data_and_a_map_of_the_noise():
    rng = np.random.default_rng(3)
    s = np.linspace(0.7, 1.3, 48, dtype=np.float32)[:, None, None] * SIGMA * np.ones(CLEAN.shape)
    s = s.astype(np.float32)
    x = (CLEAN - 50 * (CLEAN > 5) + s * rng.normal(size=CLEAN.shape)).astype(np.float32)
    y = denoise_volume(NET, x, s, 'additive', half=True)
    after, change = correct_bands(NET, x, y, s, 'additive', half=True)
    truth = CLEAN - 50 * (CLEAN > 5)
    assert change is not None and psnr(after, truth) > psnr(y, truth) - 0.01


def test_where_sigma_is_zero_nothing_changes():
    s = np.full(X.shape, SIGMA, np.float32)
    s[20:28, 20:28, 15:25] = 0
    y = denoise_volume(NET, X, s, half=True)
    after, change = correct_bands(NET, X, y, s, half=True)
    assert change is not None and not np.array_equal(after, y)
    assert np.array_equal(after[s == 0], X[s == 0])


def test_gains_are_bounded_and_only_add_what_was_removed():
    rng = np.random.default_rng(0)
    yy, rr = rng.gamma(1, 1, (2, 500))
    yr = rng.uniform(-1, 1, 500) * np.sqrt(yy * rr)
    yy[:5] = rr[5:10] = 0
    a, b = _best(yy, yr, rr, rng.uniform(0, 1, 500), rng.gamma(1, 1, 500), np.full(500, 300.0))
    assert np.isfinite(a).all() and a.min() >= -1 and a.max() <= 0.5
    assert ((a == 0) | (np.abs(a) >= 0.15)).all() and b.min() >= 0 and b.max() <= 1


def test_denoise_unit_takes_it_or_leaves_it():
    run = partial(denoise_unit, X, SIGMA, NET, copies=1, strength=1.0, quiet=True)
    with_, without = (run(bands=b)['denoised'] for b in (True, False))
    assert np.array_equal(without, Y) and np.array_equal(with_, GOOD)


def test_the_spread_knows_it():
    "What is put back brings its noise along, and the claimed standard deviation says so"
    put = BandChange(np.stack([np.zeros((1, 1, 1)), np.full((1, 1, 1), 0.5)]), np.ones(X.shape))
    plain, more = (
        volume_std(NET, X, SIGMA, denoised=Y, bands=b, half=True, probes=1) for b in (None, put)
    )
    ratio = np.median(more[INSIDE]) / SIGMA
    assert np.median(plain[INSIDE]) / SIGMA < 0.4 < 0.5 < ratio < 0.75


def test_refusals():
    with pytest.raises(InputError):
        correct_bands(NET, X, Y, SIGMA, kind='other')
    with pytest.raises(InputError):
        correct_bands(NET, X, Y, -1.0)
