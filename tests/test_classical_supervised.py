"What the classical functions and the supervised networks refuse, called from Python"

import numpy as np
import pytest

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import InputError
from mri_diffusion.learn.schedule import make_schedule
from mri_diffusion.methods.classical import blur, floor, mppca, nearest_volumes, nlmeans, patch2self
from mri_diffusion.methods.supervised import SUPERVISED, Corruption, supervised_denoiser
from mri_diffusion.scans.nifti import Scan

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


def pair(signed, seed=0, sigma=8.0):
    "Clean and noisy ellipsoid with a core; `signed`: half of it negative, noise of one channel"
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (32, 32, 16)], indexing='ij')
    clean = np.where((x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 1.1) ** 2 < 1, 100.0, 0)
    clean += np.where((x / 0.4) ** 2 + (y / 0.4) ** 2 + z**2 < 1, 50.0, 0)
    clean = np.where(x > 0, 1, -0.6) * clean if signed else clean
    noise = sigma * np.random.default_rng(seed).normal(size=(2, *clean.shape))
    return clean, clean + noise[0] if signed else np.hypot(clean + noise[0], noise[1])


def trained(name, signed, scale=1.0, **settings):
    scans = [[Scan.from_array(np.float32(v * scale)) for v in pair(signed, k)] for k in (1, 2)]
    d = Denoiser(name, 'tiny', device='cpu', quiet=True, **settings)
    return d.fit([n for _, n in scans], [c for c, _ in scans])


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('name', ['unet', 'nafnet', 'diffusion'])
def test_a_unit_is_a_matter_of_taste(name, signed):
    found = {}
    for scale in (1, 1e-9, 1e6):
        scan = Scan.from_array(np.float32(pair(signed)[1] * scale))
        out = trained(name, signed, scale).denoise(scan, sigma=8 * scale).denoised.data
        found[scale] = np.asarray(out, float) / scale
    assert all(np.abs(v - found[1]).max() < 0.5 for v in found.values())  # Sigma is 8


def test_a_network_learns_a_real_channel():
    clean, noisy = pair(True)
    denoiser = trained('unet', True, steps=150)
    result = denoiser.denoise(Scan.from_array(np.float32(noisy)), sigma=8.0)
    out, rms = result.denoised.data, lambda e: float(np.sqrt((e**2).mean()))
    assert rms(out - clean) < 0.75 * rms(noisy - clean) and out.min() < -80
    assert abs((out - clean)[clean == 0].mean()) < 1 and abs((out - clean)[clean < 0].mean()) < 2
    assert not [n for n in result.meta['notes'] if 'trained on' in n]
    other = denoiser.denoise(Scan.from_array(np.float32(pair(False)[1])), sigma=8.0)
    assert any(
        'trained on signed data, and this scan is a magnitude' in n for n in other.meta['notes']
    )
    of_magnitudes = trained('unet', False).denoise(Scan.from_array(np.float32(noisy)), sigma=8.0)
    assert any('trained on magnitudes' in n for n in of_magnitudes.meta['notes'])


def test_a_real_channel_below_zero_has_a_scale():
    clean, noisy = pair(True)
    d = Denoiser('unet', 'tiny', device='cpu', quiet=True)
    d.fit(
        [Scan.from_array(np.float32(-abs(clean) + noisy - clean))],
        [Scan.from_array(np.float32(-abs(clean)))],
    )
    out = d.denoise(Scan.from_array(np.float32(-abs(clean) + noisy - clean)))
    assert out.denoised.data[clean != 0].mean() < -50


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('n', [1, 2, 3, 4, 5])
def test_nlmeans_of_thin_volumes_sees_nothing_but_the_volume(axis, n):
    "DIPY's classic variant reads beyond axes that are shorter than it looks"
    shape = [24, 24, 24]
    shape[axis] = n
    noise = np.random.default_rng(n).normal(size=shape).astype(np.float32)
    for data, signed in ((100 + noise, False), (noise, True)):
        out = nlmeans(data, 1.0, signed=signed)
        assert out.shape == data.shape and abs(out - data.mean()).max() < abs(noise).max() + 0.1
        assert out.std() < 0.5 and abs(out.mean() - data.mean()) < 0.1


def test_nlmeans_of_a_map_and_a_mask_of_one_slice():
    noise = 100 + np.random.default_rng(0).normal(size=(24, 24, 1)).astype(np.float32)
    mask = np.ones(noise.shape, bool)
    mask[:8] = False
    out = nlmeans(noise, np.ones(noise.shape) + np.linspace(0, 0.1, 24)[:, None, None], mask)
    assert (out[:8] == noise[:8]).all() and out[8:].std() < 0.5
