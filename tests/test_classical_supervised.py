"What the classical functions and the supervised networks refuse, called from Python"

import numpy as np
import pytest

from mri_diffusion.core import InputError
from mri_diffusion.learn.schedule import make_schedule
from mri_diffusion.methods.classical import blur, floor, mppca, nearest_volumes, nlmeans, patch2self
from mri_diffusion.methods.supervised import SUPERVISED, Corruption, supervised_denoiser

gen = np.random.default_rng(0)
VOLUME = gen.random((12, 12, 8), np.float32)
SERIES = gen.random((12, 12, 8, 8), np.float32)
BVALS = np.r_[0.0, np.full(7, 1000.0)]

CLASSICAL = {
    'floor: needs sigma': lambda: floor(VOLUME),
    'blur: data of shape': lambda: blur(VOLUME[0]),
    'blur: mask has shape': lambda: blur(VOLUME, mask=np.ones((11, 12, 8))),
    'blur: mask is empty': lambda: blur(VOLUME, mask=np.zeros((12, 12, 8))),
    'blur: data has NaN': lambda: blur(np.nan * VOLUME),
    'floor: sigma of shape': lambda: floor(VOLUME, np.ones(5)),
    'floor: sigma must be positive': lambda: floor(VOLUME, 0.0),
    "nlmeans: variant 'fast'": lambda: nlmeans(VOLUME, 0.1, variant='fast'),
    'nearest_volumes: shapes': lambda: nearest_volumes(SERIES, VOLUME),
    'mppca: data of shape': lambda: mppca(VOLUME),
    'mppca: 3 volumes': lambda: mppca(SERIES[..., :3]),
    'mppca: volume .* is thinner': lambda: mppca(SERIES[:4]),
    'patch2self: data of shape': lambda: patch2self(VOLUME),
    'patch2self: 4 volumes besides': lambda: patch2self(SERIES[..., :5], bvals=BVALS[:5]),
    'patch2self: 7 bvals for 8': lambda: patch2self(SERIES, bvals=BVALS[1:]),
    'patch2self: how': lambda: patch2self(SERIES, how='fast'),
    'patch2self: 72 voxels are too few': lambda: patch2self(SERIES[:3, :3], bvals=BVALS),
    'patch2self: 8 voxels cannot': lambda: patch2self(SERIES[:1, :1], how='exact'),
    'patch2self: remove_bias needs': lambda: patch2self(SERIES, how='exact', remove_bias=True),
}


@pytest.mark.parametrize('said', CLASSICAL)
def test_classical_functions_refuse(said):
    with pytest.raises(InputError, match=f'^{said}') as e:
        CLASSICAL[said]()
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
    'settings, said',
    [
        (dict(low=0, high=0.1), 'must be positive and rising'),
        (dict(low=0.2, high=0.1), 'must be positive and rising'),
        (dict(high=1e6), 'ends at'),
        (dict(own=0.5), 'own_sigma'),
    ],
)
def test_noise_levels_that_cannot_be(settings, said):
    with pytest.raises(InputError, match=said):
        Corruption(make_schedule('reverse_warmup'), **settings)


def test_a_plain_network_has_one_pass():
    with pytest.raises(InputError, match='unet: steps=5; a plain network has one pass'):
        supervised_denoiser(None, 'unet', None, 0.1, steps=5)


def test_pairs_and_volumes_that_no_network_takes():
    unet = SUPERVISED['unet']
    config = unet.presets['tiny']
    with pytest.raises(InputError, match='unet: learns from pairs'):
        unet.fit([VOLUME], None, config)
    with pytest.raises(InputError, match='pair 0: noisy .* must have the same shape'):
        unet.fit([VOLUME[1:]], [VOLUME], config)
    with pytest.raises(InputError, match='unet: the thinnest volume .* at least'):
        unet.fit(None, [VOLUME[:, :, :3]], config, quiet=True)
