"The noise-correlation check where pages cannot prove it: volumes, real scans, and its refusals"

import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.core import InputError, generator
from mri_diffusion.noise.correlation import (
    blind_spot_size,
    flat_noise,
    noise_kernel,
    predictable_from,
)
from mri_diffusion.noise.models import add_gaussian_noise, add_noise, correlated_noise
from mri_diffusion.phantoms.heads import load_t1, shared_data
from mri_diffusion.scans.nifti import auto_mask


def smoothed(width, reach=5):
    "Exact correlation along one axis of white noise filtered by a sampled Gaussian"
    k = (
        np.exp(-(np.arange(-12, 13) ** 2) / (2 * width**2))
        if width
        else (np.arange(-12, 13) == 0) * 1.0
    )
    return (np.correlate(k, k, 'same') / (k**2).sum())[12 - reach : 13 + reach]


def real(name):
    path = shared_data(name)
    if path is None:
        pytest.skip('shared/data is not on this machine')
    return nib.load(path).get_fdata(dtype=np.float32)


def lags(covariance):
    "Correlation at lags 1 and 2, mean of both axes, and sigma"
    c = covariance / covariance[5, 5]
    return (c[6, 5] + c[5, 6]) / 2, (c[7, 5] + c[5, 7]) / 2, covariance[5, 5] ** 0.5


@pytest.fixture(scope='module')
def t1():
    scan = load_t1()
    return scan.data, scan.mask, float(np.percentile(scan.data, 99.9))


@pytest.mark.parametrize('level, most', [(6, 0.13), (12, 0.08), (25, 0.07)])
@pytest.mark.parametrize('width', [0, 0.5, 1.2])
def test_flat_patches_of_the_whole_t1(t1, level, most, width):
    clean, mask, top = t1
    noisy = add_noise(clean, level / 255 * top, correlation=width, gen=generator(0))
    one, two, sigma = lags(flat_noise(noisy, mask))
    exact = smoothed(width)
    assert (
        abs(one - exact[6]) < most
        and abs(two - exact[7]) < most
        and abs(sigma / (level / 255 * top) - 1) < 0.12
    )


@pytest.mark.parametrize('width', [0, 0.5])
def test_flat_patches_of_a_real_image(width):
    "Noise added to a scan that has noise of its own: at the level where its own is small"
    clean = real('flair/flair.nii.gz')
    sigma = 12 / 255 * np.percentile(clean, 99.9)
    noisy = add_noise(clean, sigma, correlation=width, gen=generator(0))
    one, two, found = lags(flat_noise(noisy, auto_mask(clean)))
    assert (
        abs(one - smoothed(width)[6]) < 0.08 and abs(two) < 0.06 and abs(found / sigma - 1) < 0.12
    )


def test_real_repeats_agree_with_a_part_of_themselves():
    x = real('repeats/brain_b100_x6.nii.gz')
    all_six, source = noise_kernel(x, bvals=np.zeros(6))
    alone, _ = noise_kernel(x[..., 0])
    assert (
        source == 'difference of repeats'
        and abs(all_six[6, 5] - 0.27) < 0.05
        and abs(all_six[5, 6] - 0.38) < 0.05
    )
    assert np.allclose(
        noise_kernel(x[..., :4], bvals=np.zeros(4))[0][4:7, 4:7], all_six[4:7, 4:7], atol=0.03
    )
    assert (
        0 < alone[6, 5] - all_six[6, 5] < 0.2 and 0 < alone[5, 6] - all_six[5, 6] < 0.2
    )  # errs towards more
    assert blind_spot_size(all_six) > 1 and blind_spot_size(alone) > 1


def test_three_axes():
    "A volume smoothed along z alone: seen with dims=3, and not with dims=2"
    noise = correlated_noise((64, 64, 40), (0, 0, 0.8), generator(0)).numpy()
    image, whole = 100 + 5 * noise, np.ones(noise.shape, bool)
    flat, solid = noise_kernel(image, whole)[0], noise_kernel(image, whole, dims=3)[0]
    assert (
        flat.sum() == 1
        and solid.shape == (11, 11, 11)
        and abs(solid[5, 5, 6] - smoothed(0.8)[6]) < 0.07
        and abs(solid[6, 5, 5]) < 0.06
    )
    assert blind_spot_size(flat) == 1 and predictable_from(solid, 1) > 0.5


def test_one_slice_and_a_thin_volume():
    image = add_gaussian_noise(np.full((80, 80, 1), 50.0), 2.0, generator(0))
    kernel, source = noise_kernel(image, np.ones(image.shape, bool))
    assert kernel.sum() == 1 and source == 'flat patches'
    thin = noise_kernel(
        np.repeat(image, 3, 2) + add_gaussian_noise(np.zeros((80, 80, 3)), 2.0, generator(1)),
        np.ones((80, 80, 3), bool),
        dims=3,
    )[0]
    assert thin.shape == (11, 11, 11) and np.isfinite(thin).all()


def test_series_without_repeats():
    "Twelve volumes with contrasts of their own: the noise is in the components without signal"
    base = np.random.default_rng(0).uniform(50, 100, (32, 32, 10, 2))
    mix = np.random.default_rng(1).uniform(0.5, 1, (2, 12))
    noise = np.stack(
        [correlated_noise((32, 32, 10), 0.7, generator(v)).numpy() for v in range(12)], -1
    )
    kernel, source = noise_kernel(base @ mix + noise, np.ones((32, 32, 10), bool))
    assert 'modes' in source and abs(kernel[6, 5] - smoothed(0.7)[6]) < 0.05


def test_what_is_refused():
    image = add_gaussian_noise(np.full((40, 40, 4), 50.0), 2.0, generator(0))
    whole = np.ones(image.shape, bool)
    few = np.zeros_like(whole)
    few[:5, :5] = True
    for wrong in (
        dict(noisy=image[0]),
        dict(noisy=image, mask=few),
        dict(noisy=image, mask=whole[1:]),
        dict(noisy=0 * image + 1, mask=whole),
        dict(noisy=np.where(image > 55, np.nan, image)),
        dict(noisy=image, mask=whole, dims=1),
    ):
        with pytest.raises(InputError) as e:
            noise_kernel(**wrong)
        assert '\n' not in str(e.value)
    with pytest.raises(InputError, match='odd'):
        predictable_from(np.ones((5, 5)), 2)
