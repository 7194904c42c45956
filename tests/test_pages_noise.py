"What the functions of the noise room refuse, each in one line that says what to do"

import sys

import numpy as np
import pytest
import torch

from mri_diffusion.core import InputError
from mri_diffusion.noise.biasfield import n4_bias_field, remove_field, restore_field
from mri_diffusion.noise.correlation import blind_spot_size
from mri_diffusion.noise.kspace import simulate_acquisition, undersampling_mask
from mri_diffusion.noise.models import add_noise
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.noise.standardise import Standardisation

image = np.random.default_rng(0).uniform(50, 60, (16, 16, 8)).astype(np.float32)
whole = np.ones(image.shape, bool)
slices = torch.ones(16, 16)


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(kind='salt'), 'salt'),
        (dict(sigma=-1), 'negative'),
        (dict(sigma=np.ones(7)), 'broadcast'),
        (dict(n_coils=4), 'ncchi'),
        (dict(kind='gamma', correlation=1.0), 'correlation'),
        (dict(kind='poisson', sigma=0.0), 'above 0'),
        (dict(correlation=-1.0), 'between 0 and 100'),
        (dict(correlation=(1.0, 2.0)), 'one for each axis'),
    ],
)
def test_add_noise_refuses(wrong, said):
    with pytest.raises(InputError, match=said):
        add_noise(image, **(dict(sigma=0.1) | wrong))


@pytest.mark.parametrize('wrong', [dict(accel=0), dict(accel=2.5), dict(accel=2, kind='spiral')])
def test_undersampling_mask_refuses(wrong):
    with pytest.raises(InputError):
        undersampling_mask(64, **wrong)


@pytest.mark.parametrize(
    'wrong',
    [dict(accel=2), dict(n_coils=8, accel=5), dict(partial=0.4), dict(acquired=0.0)],
)
def test_simulate_acquisition_refuses(wrong):
    with pytest.raises(InputError):
        simulate_acquisition(slices, 0.1, **wrong)


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(noisy=image[0]), r'\(X, Y, Z\)'),
        (dict(how='guess'), 'guess'),
        (dict(how='piesno'), '6 volumes'),
        (dict(how='repeats'), 'needs a series'),
        (dict(how='background', mask=whole), 'outside the object'),
        (dict(mask=whole[1:]), 'mask'),
        (dict(mask=0 * whole), 'empty'),
        (dict(bvals=[0, 1000]), 'b-values'),
        (dict(noisy=np.full((9, 9, 9), np.nan)), 'NaN'),
    ],
)
def test_estimate_sigma_refuses(wrong, said):
    with pytest.raises(InputError, match=said):
        estimate_sigma(**(dict(noisy=image) | wrong))


def test_a_blind_spot_may_need_more_voxels_than_allowed():
    line = np.exp(-(np.arange(-5, 6) ** 2) / 36)
    with pytest.raises(InputError, match='blind block'):
        blind_spot_size(np.outer(line, line), largest=3)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(kind='x'),
        dict(kind='additive', sigma=0.0),
        dict(kind='magnitude', sigma=np.array([1.0, np.nan])),
    ],
)
def test_standardisation_refuses(wrong):
    with pytest.raises(InputError):
        Standardisation(**wrong)


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(mask=np.pad(np.ones((1, 1, 1)), ((3, 12), (3, 12), (3, 4)))), '1 voxels'),
        (dict(image=np.where(image > 59, np.nan, image)), 'NaN or infinite'),
        (dict(image=image[..., None]), 'one volume'),
        (dict(image=np.ones((9, 9, 9)), mask=None), 'foreground'),
        (dict(mask=np.ones((3, 3, 3))), 'same grid'),
        (dict(image=image[:, :, :2], mask=whole[:, :, :2]), '4 voxels or more'),
        (dict(iterations=()), 'one entry a level'),
    ],
)
def test_n4_refuses(wrong, said):
    with pytest.raises(InputError, match=said) as e:
        n4_bias_field(**(dict(image=image, mask=whole) | wrong))
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('field', [0 * image, image[1:]])
def test_a_field_is_positive_and_on_the_grid(field):
    with pytest.raises(InputError, match='field'):
        remove_field(image, field)


def test_without_simpleitk_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'SimpleITK', None)
    with pytest.raises(InputError, match=r'mri_diffusion\[bias\]'):
        n4_bias_field(image, whole)
    assert restore_field(image, 1 + image).shape == image.shape
