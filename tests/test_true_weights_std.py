"A scan that needs no denoising is left alone; error bars hold what they claim"

import numpy as np
import pytest
import torch

from mri_diffusion.core import InputError, generator
from mri_diffusion.methods.classical import nlmeans
from mri_diffusion.methods.pretrained import denoise_volume
from mri_diffusion.methods.shipped import load_shipped
from mri_diffusion.methods.trust import (
    denoise_carefully,
    denoise_share,
    disagreement,
    volume_std,
)
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import auto_mask


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def head():
    clean = np.maximum(load_t1(downsample=2).data, 0)[12:68, 14:78, 28:48].astype(np.float32)
    inside = auto_mask(clean)
    return clean / np.median(clean[inside]), inside


@pytest.fixture(scope='module')
def net():
    return load_shipped('unet')[0]


@pytest.mark.parametrize('snr', [60, 100, 200])
def test_high_snr_left_alone(head, net, snr):
    clean, inside = head
    noisy = add_noise(clean, 1 / snr, gen=generator(snr))
    out, share, note = denoise_carefully(net, noisy, 1 / snr)
    assert np.sqrt(np.square(out - noisy)[inside].mean()) * snr < 0.1
    assert share == 0 and f'SNR {snr}' in note and 'left as it is' in note and '\n' not in note


@pytest.mark.parametrize('snr', [5, 10, 20])
@pytest.mark.parametrize('how', ['network', 'nlmeans'])
def test_denoised_left_alone(head, net, snr, how):
    clean, inside = head
    noisy = add_noise(clean, 1 / snr, gen=generator(snr))
    once = (
        denoise_carefully(net, noisy, 1 / snr)[0] if how == 'network' else nlmeans(noisy, 1 / snr)
    )
    once = np.maximum(once, 0)
    assert np.sqrt(np.square(once - noisy)[inside].mean()) * snr > 0.7  # it was denoised
    twice, _, note = denoise_carefully(net, once, 1 / snr)
    assert np.sqrt(np.square(twice - once)[inside].mean()) * snr < 0.1
    assert 'denoised before' in note and '\n' not in note


def situations(clean, inside, snr, gen):
    "Name, noisy image, sigma and what else is told"
    s = 1 / snr
    varies = (s * np.linspace(0.6, 1.5, clean.shape[0])[:, None, None]).astype(np.float32)
    varies = varies * np.ones_like(clean)
    rician = add_noise(clean, s, gen=gen)
    yield 'white', rician, s, {}
    yield 'background blanked', rician * inside, s, {}
    yield 'correlated', add_noise(clean, s, correlation=1.0, gen=gen), s, {}
    yield 'correlated in slices', add_noise(clean, s, correlation=(1.2, 1.2, 0), gen=gen), s, {}
    coils = add_noise(clean, s, 'ncchi', 32, gen=gen)
    yield '32 coils', coils, s, dict(n_coils=32)
    signed = add_noise(clean, s, 'gaussian', gen=gen)
    yield 'signed', signed, s, dict(kind='additive')
    yield 'thin slab', rician[:, :, :3], s, {}
    yield 'one sagittal slice', rician[28:29], s, {}
    yield 'map', add_noise(clean, varies, gen=gen), varies, {}
    yield 'sigma told 30 % too large', rician, 1.3 * s, {}


@pytest.mark.parametrize('snr', [5, 10, 20, 39])
def test_no_false_alarm(head, net, snr):
    clean, inside = head
    found = {
        name: denoise_carefully(net, noisy, sigma, **how)[1:]
        for name, noisy, sigma, how in situations(clean, inside, snr, generator(snr))
    }
    assert {k: v for k, v in found.items() if v[0] < 0.9} == {}


def test_bright_vessels_do_not_speak_for_the_brain(head):
    clean, inside = head
    scene = 0.2 * clean
    scene[24:32, 24:40, 4:16] = 2.0
    noisy = add_noise(scene, 0.02, gen=generator(0))  # tissue at SNR 10, vessels at 100
    assert denoise_share(noisy, 0.02, mask=scene > 1)[0] == 1


def test_bad_mask_is_refused(head):
    clean, inside = head
    for mask in (np.zeros(clean.shape, bool), inside[1:]):
        with pytest.raises(InputError, match='mask') as e:
            denoise_share(clean, 0.1, mask=mask)
        assert '\n' not in str(e.value)


def test_nothing_to_say_about_a_constant_or_no_noise(head):
    clean, _ = head
    assert denoise_share(np.ones((8, 8, 8)), 1.0) == (1.0, '')
    assert denoise_share(clean, 0.0) == (1.0, '')


def gaussian_kernel(width, reach=4):
    "Autocorrelation of white noise after a Gaussian filter"
    at = np.arange(-reach, reach + 1) ** 2
    return np.exp(-(at[:, None, None] + at[:, None] + at) / (4 * width**2))


REPEATS = {  # name: SNR, noise, what else is told
    'white': (10, {}, {}),
    'low SNR': (3, {}, {}),
    'correlated': (10, dict(correlation=0.6), dict(kernel=gaussian_kernel(0.6))),
    'four coils': (8, dict(kind='ncchi', n_coils=4), dict(n_coils=4)),
    'signed': (10, dict(kind='gaussian'), dict(kind='additive')),
}


@pytest.mark.parametrize('name', REPEATS)
@pytest.mark.parametrize('varies', [False, True])
def test_std_is_that_of_repeats(head, net, name, varies):
    if varies and name != 'white':
        pytest.skip('a map of sigma is tried with white noise')
    snr, noise, told = REPEATS[name]
    clean, inside = (v[12:44, 12:52, 4:16] for v in head)
    gain = np.linspace(0.5, 2, 32)[:, None, None] if varies else np.ones((32, 1, 1))
    sigma = (gain * np.ones(clean.shape) / snr).astype(np.float32)
    told = dict(told)
    kernel = told.pop('kernel', None)

    def once(k):
        noisy = add_noise(clean, sigma, gen=generator(k), **noise)
        return noisy, denoise_volume(net, noisy, sigma, **told)

    noisy, denoised = once(0)
    claimed = volume_std(net, noisy, sigma, denoised=denoised, kernel=kernel, **told)
    true = np.std([once(k)[1] for k in range(1, 11)], axis=0, ddof=1)
    # median of a sample std of ten is 0.963 of the true one
    levels = np.array_split(np.argsort(clean[inside]), 3)
    by_tissue = [float(np.median(claimed[inside][i]) / np.median(true[inside][i])) for i in levels]
    found = float(np.median(claimed[inside]) / np.median(true[inside])) * 0.963
    print(name, varies, round(found, 3), np.round(by_tissue, 2))
    assert 0.85 < found < 1.25  # a little too wide
    if varies:
        ends = [np.median(claimed[i][inside[i]]) for i in (slice(0, 8), slice(24, 32))]
        truth = [np.median(true[i][inside[i]]) for i in (slice(0, 8), slice(24, 32))]
        assert np.allclose(ends, truth, rtol=0.25) and ends[1] > 1.5 * ends[0]


def test_std_of_what_is_left_alone_is_that_of_the_noise(head, net):
    clean, inside = head
    noisy = add_noise(clean, 0.01, gen=generator(1))
    std = volume_std(net, noisy, 0.01, share=0.0)
    assert abs(np.median(std[inside]) / 0.01 - 1) < 0.02
    map_ = np.where(np.arange(56)[:, None, None] < 9, 0, 0.01) * np.ones(clean.shape)
    assert not volume_std(net, noisy, map_, share=0.0)[:9].any()
    assert not volume_std(net, np.ones((8, 8, 8)), 1.0).any()


def test_std_and_disagreement_refuse_in_one_line(head, net):
    clean = head[0][:16, :16, :8]
    for what, give in (
        ('kernel', lambda: volume_std(net, clean, 0.1, kernel=np.ones((4, 4)))),
        ('probes', lambda: volume_std(net, clean, 0.1, probes=0)),
        ('results', lambda: disagreement(clean)),
        ('results', lambda: disagreement(clean, clean[1:])),
    ):
        with pytest.raises(InputError, match=what) as e:
            give()
        assert '\n' not in str(e.value)
    assert np.allclose(disagreement(clean, clean + 2), 2**0.5, atol=1e-5)
