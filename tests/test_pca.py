"Principal components with known noise: what they must give, leave alone and refuse"

import math

import numpy as np
import pytest
import torch

from mri_diffusion.app.denoiser import Denoiser, denoise
from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.scores import psnr
from mri_diffusion.judge.truth import make_truth, score_series
from mri_diffusion.methods import pca
from mri_diffusion.methods.pca import (
    denoise_pca,
    denoise_states,
    filter_patches,
    gradual_gain,
    noise_spectrum,
    optimal_gain,
    patch_size,
)
from mri_diffusion.noise.components import draw_noise
from mri_diffusion.noise.models import add_noise, add_rician_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri


@pytest.fixture(scope='module')
def made():
    "Clean scan, noisy series, sigma"
    scan, _ = simulate_dmri(*make_gradients({1000: 12}, n_b0=2), shape=(32, 36, 8))
    return scan, add_rician_noise(scan.data, 60.0, generator(0)), 60.0


@pytest.fixture(scope='module')
def plain(made):
    "What `denoise_pca` makes of it by default"
    scan, noisy, sigma = made
    return denoise_pca(noisy, sigma, scan.mask)


def blurred(widths=(0.6, 0.6, 0.0)):
    "Autocorrelation (7, 7, 7) of white noise that a Gaussian has smoothed along each axis"
    lag = np.arange(-3, 4)
    lines = [np.exp(-(lag**2) / (4 * w**2)) if w else (lag == 0) * 1.0 for w in widths]
    return np.einsum('i,j,k->ijk', *lines).astype(np.float32)


def unit_noise(kernel=None, shape=(40, 40, 16), V=20, seed=0):
    "(X, Y, Z, V) noise of variance one"
    gen = generator(seed)
    white = torch.randn(V, *shape, generator=gen)
    e = white if kernel is None else draw_noise((V, *shape), kernel, gen)
    return e.permute(1, 2, 3, 0).numpy()


def whole(x):
    "All voxels"
    return np.ones(x.shape[:3], bool)


@pytest.mark.parametrize('kernel', [None, blurred()], ids=['white', 'correlated'])
@pytest.mark.parametrize('axes', ['head', 'patch'])
def test_noise_alone_is_removed(kernel, axes):
    e = unit_noise(kernel)
    y, _, notes = denoise_states(e, whole(e), whole(e), axes=axes)
    assert np.sqrt(np.mean(y**2)) < 0.15
    assert ('correlated' in notes[-1]) == (kernel is not None)
    wanted = 1 if kernel is None else float((kernel**2).sum())
    if kernel is not None:
        assert float(notes[-1].split()[4]) == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize('side', [(6, 6, 6), (8, 8, 1)])
def test_the_edge_is_that_of_fresh_noise(side):
    for kernel in (None, blurred()):
        edge = noise_spectrum(side, 20, kernel)[1]
        shape = [n * s for n, s in zip((5, 5, 5), side)]
        e = torch.as_tensor(unit_noise(kernel, shape, 20, seed=3))
        parts = (
            e.unfold(0, side[0], side[0]).unfold(1, side[1], side[1]).unfold(2, side[2], side[2])
        )
        flat = parts.reshape(125, 20, -1)
        flat = flat - flat.mean(-1, keepdim=True)
        above = (torch.linalg.eigvalsh(flat @ flat.mT)[:, -1] > edge).double().mean()
        assert above < 0.06
    assert noise_spectrum(side, 20, blurred())[1] > 1.1 * noise_spectrum(side, 20)[1]


def test_optimal_shrinkage_is_the_closed_form_for_white_noise():
    n, V = 512, 24
    spectrum, edge = noise_spectrum((8, 8, 8), V)
    t = torch.tensor([1.6, 2.0, 4.0, 50.0]).double()[:, None] * n
    power = torch.cat([torch.zeros(4, V - 1).double(), t], 1)
    told = optimal_gain(power, torch.as_tensor(spectrum)[None], torch.tensor([[edge]]), n)
    law = ((t - n - V) ** 2 - 4 * n * V).sqrt() / t
    assert torch.allclose(told[:, -1:], law, atol=0.01) and not told[:, :-1].any()
    assert gradual_gain(t, torch.tensor([[float(n)]]))[0, 0] == pytest.approx(1 - 1 / 1.6)


@pytest.mark.parametrize('kind', ['real', 'complex'])
def test_low_rank_truth_is_recovered(kind):
    gen = generator(5)
    smooth = torch.randn(2, 24, 24, 12, generator=gen).cumsum(1).cumsum(2)
    smooth = smooth / smooth.std((1, 2, 3), keepdim=True)
    truth = 3 * torch.einsum('kxyz,kv->xyzv', smooth, torch.randn(2, 16, generator=gen)).numpy()
    e = unit_noise(None, (24, 24, 12), 16)
    if kind == 'complex':
        truth = truth * np.exp(0.4j * np.arange(16))
        e = (e + 1j * unit_noise(None, (24, 24, 12), 16, 1)) / 2**0.5
    noisy = (truth + e).astype(np.complex64 if kind == 'complex' else np.float32)
    for axes in ('head', 'patch'):
        y, std, _ = denoise_states(noisy, whole(e), whole(e), axes=axes)
        error = np.abs(y - truth)
        assert np.sqrt(np.mean(error**2)) < 0.45 and y.dtype == noisy.dtype
        assert 0.5 < (error < std).mean() < 0.85 or kind == 'complex'


def test_a_single_bright_voxel_of_one_volume_is_not_lost():
    e = unit_noise()
    e[20, 20, 8, 3] += 60
    y, *_ = denoise_states(e, whole(e), whole(e))
    assert y[20, 20, 8, 3] > 40 and np.abs(y[20, 20, 8, 4]) < 10


def test_means_of_shells_do_not_matter(made):
    scan, noisy, sigma = made
    states = (noisy / sigma).astype(np.float32)
    shift = np.where(scan.is_b0, 40.0, np.arange(14)).astype(np.float32)
    inside = scan.mask
    for axes in ('head', 'patch'):
        one, *_ = denoise_states(states, inside, inside, axes=axes)
        other, *_ = denoise_states(states + shift, inside, inside, axes=axes)
        assert np.abs(other - shift - one)[inside].max() < 0.05


def test_told_or_not_it_gains_and_says_its_level(made):
    scan, noisy, sigma = made
    before = psnr(noisy, scan.data, scan.mask)
    for told in (None, sigma):
        found = denoise_pca(noisy, told, scan.mask, scan.bvals)
        assert psnr(found['denoised'], scan.data, scan.mask) > before + 6
        assert found['std'].shape == noisy.shape and (found['std'] >= 0).all()
        assert np.median(found['sigma_found'][scan.mask]) == pytest.approx(sigma, rel=0.1)
        error = np.abs(found['denoised'] - scan.data)[scan.mask]
        assert 0.5 < (error < found['std'][scan.mask]).mean() < 0.85


def test_a_level_that_differs_from_place_to_place(made):
    scan, _, _ = made
    level = np.linspace(30, 150, 32)[:, None, None] * np.ones((1, 36, 8))
    noisy = add_rician_noise(scan.data, level[..., None], generator(2))
    gain = {}
    for name, told in dict(map=level, number=float(np.median(level))).items():
        y = denoise_pca(noisy, told, scan.mask)['denoised']
        gain[name] = psnr(y, scan.data, scan.mask)
    assert gain['map'] > gain['number'] + 0.5


def test_interpolated_noise_is_where_it_is_far_ahead(made):
    scan, _, sigma = made
    gen, parts = generator(4), []
    for _ in range(2):
        e = draw_noise((14, *scan.data.shape[:3]), blurred((0.9, 0.9, 0)), gen)
        parts.append(e.permute(1, 2, 3, 0).numpy())
    truth = make_truth(scan, 20, 0)
    noisy = np.hypot(scan.data + truth.sigma * parts[0], truth.sigma * parts[1])
    x = scan.with_data(noisy.astype(np.float32))
    found = {n: Denoiser(n, quiet=True).apply(x).denoised for n in ('mppca', 'pca')}
    score = {n: score_series(y, truth) for n, y in found.items()}
    assert score['pca']['psnr'] > score['mppca']['psnr'] + 2
    assert score['pca']['fa_error'] < score['mppca']['fa_error']


def test_the_bias_of_a_magnitude_goes_and_signs_stay(made, plain):
    scan, noisy, sigma = made
    eight = add_noise(scan.data, sigma, 'ncchi', 8, gen=generator(1))
    bias = lambda x: abs((x - scan.data)[scan.mask].mean()) / sigma
    assert bias(denoise_pca(eight, sigma, scan.mask, n_coils=8)['denoised']) < 0.25 * bias(eight)
    left = denoise_pca(noisy, sigma, scan.mask, remove_bias=False)['denoised']
    assert bias(left) > 2 * bias(plain['denoised'])
    clean = np.linspace(-4, 4, 16)[:, None, None, None] * np.ones((1, 20, 8, 14))
    clean = clean * np.cos(np.arange(14))
    signed = clean + np.random.default_rng(0).normal(size=clean.shape)
    found = denoise_pca(signed.astype(np.float32), 1.0)['denoised']
    assert np.corrcoef(found.ravel(), clean.ravel())[0, 1] > 0.98
    assert abs(np.mean(found - clean)) < 0.03


def test_complex_data_keep_their_phase(made):
    scan, _, sigma = made
    wave = scan.data * np.exp(1j * np.linspace(0, 2, 32))[:, None, None, None]
    rng = np.random.default_rng(1)
    e = rng.normal(size=(2, *wave.shape)) * sigma
    noisy = (wave + e[0] + 1j * e[1]).astype(np.complex64)
    found = denoise_pca(noisy, sigma, scan.mask)
    error = np.abs(found['denoised'] - wave)[scan.mask]
    assert found['denoised'].dtype == np.complex64 and found['std'].dtype == np.float32
    assert np.sqrt(np.mean(error**2) / 2) < 0.55 * sigma
    assert (found['denoised'][~scan.mask] == noisy[~scan.mask]).all()


@pytest.mark.parametrize('unit', [1e-12, 1e-6, 1e6, 1e12])
def test_units_do_not_matter(made, plain, unit):
    scan, noisy, sigma = made
    other = denoise_pca(noisy * np.float32(unit), sigma * unit, scan.mask)
    for k in ('denoised', 'std'):
        assert np.allclose(other[k] / np.float32(unit), plain[k], atol=0.02 * sigma)


@pytest.mark.parametrize('axes', ['head', 'patch'])
@pytest.mark.parametrize('volumes', [2, 6, 11])
def test_few_volumes(made, volumes, axes):
    scan, noisy, sigma = made
    found = denoise_pca(noisy[..., :volumes], sigma, scan.mask, axes=axes)['denoised']
    clean = scan.data[..., :volumes]
    assert psnr(found, clean, scan.mask) > psnr(noisy[..., :volumes], clean, scan.mask) + 1.5


@pytest.mark.parametrize('part', [np.s_[:, :, 4:5], np.s_[:2], np.s_[:, 10:13, 2:4]])
def test_thin_volumes(made, part):
    scan, noisy, sigma = made
    x, clean, inside = noisy[part], scan.data[part], scan.mask[part]
    inside = inside if inside.sum() > 9 else np.ones_like(inside)
    found = denoise_pca(x, sigma, inside)['denoised']
    assert np.isfinite(found).all() and found.shape == x.shape
    assert np.abs(found - clean)[inside].mean() < np.abs(x - clean)[inside].mean()


def test_constant_volumes_and_the_outside_come_back_as_they_were(made):
    scan, noisy, sigma = made
    x, mask = noisy.copy(), scan.mask.copy()
    x[..., 3], mask[:8] = 7.0, False
    found = denoise_pca(x, sigma, mask, scan.bvals)
    assert (found['denoised'][..., 3] == 7).all() and (found['std'][..., 3] == 0).all()
    assert (found['denoised'][~mask] == x[~mask]).all() and not found['std'][~mask].any()
    assert any('constant' in n for n in found['notes'])


def test_a_blanked_background_changes_nothing_inside(made, plain):
    scan, noisy, sigma = made
    blank = np.where(scan.mask[..., None], noisy, 0)
    one = plain['denoised'][scan.mask]
    assert np.array_equal(denoise_pca(blank, sigma, scan.mask)['denoised'][scan.mask], one)
    bare = denoise_pca(blank, sigma)['denoised']
    assert np.abs(bare[scan.mask] - one).mean() < 0.1 * sigma and not bare[~scan.mask].any()


@pytest.mark.parametrize('settings', [{}, dict(axes='patch'), dict(shrink='optimal')])
def test_the_same_twice_and_in_slabs(made, monkeypatch, settings):
    scan, noisy, sigma = made
    one = denoise_pca(noisy, sigma, scan.mask, **settings)['denoised']
    assert np.array_equal(denoise_pca(noisy, sigma, scan.mask, **settings)['denoised'], one)
    monkeypatch.setattr(pca, '_MOST', 1)
    sliced = denoise_pca(noisy, sigma, scan.mask, **settings)['denoised']
    assert np.allclose(sliced, one, atol=0.02 * sigma)


def test_more_signal_than_noise_is_left(made):
    scan, *_ = made
    found = denoise_pca(scan.data.astype(np.float32), 0.02, scan.mask)
    assert np.abs(found['denoised'] - scan.data)[scan.mask].max() < 0.5


def test_patches_hold_more_voxels_than_components():
    for shape in ((40, 40, 40), (40, 40, 3), (40, 40, 1)):
        for stride, least in ((1, 20), (2, 66), (2, 300)):
            m, s = patch_size(shape, stride, least)
            voxels = math.prod(min(a * b, n) for a, b, n in zip(m, s, shape))
            assert voxels >= least and all(a * b <= n + b for a, b, n in zip(m, s, shape))


def test_a_patch_of_one_voxel_gives_it_back():
    x, seen = torch.randn(6, 6, 6, 4, generator=generator(0)), torch.zeros(6, 6, 6)
    seen[2, 3, 4] = 1
    gain = lambda power, n: torch.zeros_like(power)
    y, var, kept = filter_patches(x, seen, (3, 3, 3), (1, 1, 1), gain)
    assert torch.allclose(y[2, 3, 4], x[2, 3, 4]) and kept == 0 and not var.any()


def test_refused_in_one_line(made):
    scan, noisy, sigma = made
    nan = noisy.copy()
    nan[1, 1, 1, 1] = np.nan
    tries = {
        'every volume of the series is constant': lambda: denoise_pca(0 * noisy),
        'pca: sigma of shape': lambda: denoise_pca(noisy, np.ones(14)),
        'pca: sigma must be positive': lambda: denoise_pca(noisy, 0.0, scan.mask),
        'pca: sigma must be positive and finite': lambda: denoise_pca(noisy, np.nan, scan.mask),
        'the mask holds': lambda: denoise_pca(noisy, 1.0, 0 * scan.mask),
        'pca: mask of shape': lambda: denoise_pca(noisy, 1.0, scan.mask[:5]),
        'values are not finite': lambda: denoise_pca(nan, 1.0),
        'pca: scan of shape': lambda: denoise(noisy[..., 0], method='pca'),
        'pca: stride=0': lambda: Denoiser('pca', stride=0),
        'pca: axes=': lambda: Denoiser('pca', axes='whole'),
        'noise_spectrum: kernel': lambda: noise_spectrum((3, 3, 3), 4, np.ones((3, 4, 3))),
        "denoise_states: axes 'x'": lambda: denoise_pca(noisy, sigma, scan.mask, axes='x'),
        "denoise_states: shrink 'x'": lambda: denoise_pca(noisy, sigma, scan.mask, shrink='x'),
    }
    for said, call in tries.items():
        with pytest.raises(InputError, match=said) as e:
            call()
        assert '\n' not in str(e.value)


def test_as_a_method_it_gives_an_uncertainty(made):
    scan, noisy, _ = made
    found = Denoiser('pca').denoise(scan.with_data(noisy), needs_std=True)
    assert found.std.shape == noisy.shape and found.sigma is not None
    assert found.meta['config']['axes'] == 'head' and found.meta['config']['stride'] == 2
