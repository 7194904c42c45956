"The network of the package on a series: what it must give, leave alone and refuse"

import numpy as np
import pytest
import torch

from mri_diffusion.app.cli import main
from mri_diffusion.app.denoiser import Denoiser, denoise
from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.judge.scores import psnr
from mri_diffusion.methods.unet_pca import clean_scores, denoise_unet_pca, simple_axes
from mri_diffusion.methods.wiener import denoise_wiener
from mri_diffusion.nets.unit_unet import UnitDenoiser
from mri_diffusion.noise.components import find_components, to_states, with_smooth_components
from mri_diffusion.noise.models import add_noise, add_rician_noise, correlated_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri


@pytest.fixture(scope='module')
def made():
    "Clean scan, noisy series, sigma"
    scan, _ = simulate_dmri(*make_gradients({1000: 12}, n_b0=2), shape=(32, 36, 8))
    return scan, add_rician_noise(scan.data, 60.0, generator(0)), 60.0


def run(*args, **how):
    return denoise_unet_pca(*args, **dict(probes=1, quiet=True) | how)


def test_told_or_not_it_is_ahead_of_the_filter(made):
    scan, noisy, sigma = made
    for s in (None, sigma):
        found, by = (f(noisy, s, scan.mask, scan.bvals) for f in (run, denoise_wiener))
        ahead = psnr(found['denoised'], scan.data, scan.mask)
        assert ahead > psnr(by['denoised'], scan.data, scan.mask) + 0.5
        assert found['std'].shape == noisy.shape and (found['std'] >= 0).all()
        assert np.median(found['sigma_found'][scan.mask]) == pytest.approx(sigma, rel=0.1)


def test_the_stated_std_is_that_of_the_error(made):
    scan, noisy, sigma = made
    for width in (0.0, (0.6, 0.6, 0.0)):  # white, and correlated as by interpolation
        x = add_noise(scan.data, sigma, correlation=width, gen=generator(2))
        found = run(x, sigma, scan.mask, scan.bvals)
        error = np.abs(found['denoised'] - scan.data)[scan.mask]
        assert 0.45 < (error < found['std'][scan.mask]).mean() < 0.88
        assert psnr(found['denoised'], scan.data, scan.mask) > psnr(x, scan.data, scan.mask) + 4


def test_the_stated_std_is_the_spread_over_repetitions(made):
    "Propagated through the orthonormal basis and the exact inverse, volume by volume"
    scan, _, sigma = made
    noisy = [add_noise(scan.data, sigma, gen=generator(10 + k)) for k in range(8)]
    told = [
        run(x, sigma, scan.mask, scan.bvals, modes=7, probes=2 * (k == 0))
        for k, x in enumerate(noisy)
    ]
    spread = np.std([f['denoised'] for f in told], axis=0, ddof=1)
    bright = scan.mask[..., None] & (scan.data > 5 * sigma)  # away from the floor
    ratio = np.sqrt((told[0]['std'][bright] ** 2).mean() / (spread[bright] ** 2).mean())
    assert 0.75 < ratio < 1.35, ratio


def test_the_same_seed_the_same_result(made):
    scan, noisy, sigma = made
    one, two = (run(noisy, sigma, scan.mask, scan.bvals, seed=1, copies=1) for _ in range(2))
    assert np.array_equal(one['denoised'], two['denoised']) and np.array_equal(
        one['std'], two['std']
    )
    other = run(noisy, sigma, scan.mask, scan.bvals, seed=2, copies=1)
    assert np.array_equal(one['denoised'], other['denoised'])  # The seed is that of the std alone
    assert not np.array_equal(one['std'], other['std'])


def test_a_series_without_noise_stays_nearly(made):
    scan = made[0]
    x = add_rician_noise(scan.data, 1.0, generator(3))
    found = run(x, 1.0, scan.mask)['denoised']
    assert np.sqrt(np.square(found - scan.data)[scan.mask].mean()) < 1.0


def test_refused_in_one_line(made):
    scan, noisy, _ = made
    few = np.zeros(scan.mask.shape, bool)
    few[14:16, 16:19, 4] = True
    tries = {
        'every volume of the series is constant': lambda: run(0 * noisy),
        'unet_pca: sigma of shape': lambda: run(noisy, np.ones(14)),
        'the mask holds': lambda: run(noisy, 1.0, 0 * scan.mask),
        'modes of 14 volumes': lambda: run(noisy, 60.0, scan.mask, modes=15),
        'copies=3': lambda: run(noisy, 60.0, scan.mask, copies=3),
        'strength': lambda: run(noisy, 60.0, scan.mask, strength=3),
        'probes': lambda: run(noisy, 60.0, scan.mask, probes=-1),
        'probes 1.5': lambda: run(noisy, 60.0, scan.mask, probes=1.5),
        'values are not finite': lambda: run(noisy * np.where(noisy == noisy.max(), np.nan, 1)),
        'unet_pca: mask of shape': lambda: run(noisy, 60.0, scan.mask[1:]),
        'unet_pca: b-values of shape': lambda: run(noisy, 60.0, scan.mask, scan.bvals[1:]),
        'n_coils 1.5': lambda: run(noisy, 60.0, scan.mask, n_coils=1.5),
        'n_coils': lambda: run(noisy, 60.0, scan.mask, n_coils=0),
        'modes 1.5': lambda: run(noisy, 60.0, scan.mask, modes=1.5),
        'too few to find': lambda: run(noisy, None, few),
        'unet_pca: scan of shape': lambda: run(noisy[..., 0], 60.0),
        'unet_pca: scan of': lambda: denoise(noisy[..., 0], method='unet_pca'),
    }
    for said, call in tries.items():
        with pytest.raises(InputError, match=said) as e:
            call()
        assert '\n' not in str(e.value)


def test_as_a_method_it_gives_an_uncertainty(made):
    scan, noisy, _ = made
    ready = Denoiser('unet_pca', quiet=True, probes=1)
    found = ready.denoise(scan.with_data(noisy), needs_std=True)
    assert found.std.shape == noisy.shape and found.sigma is not None
    bare = Denoiser('unet_pca', quiet=True)
    with pytest.raises(InputError, match='probes'):
        bare.denoise(scan.with_data(noisy), needs_std=True)
    assert bare.denoise(scan.with_data(noisy)).std is None


def test_the_command_gives_the_uncertainty_that_is_asked_for(made, tmp_path, capsys):
    scan, noisy, _ = made
    scan.with_data(noisy).save(tmp_path / 'dwi.nii.gz')
    out, std = tmp_path / 'out.nii.gz', tmp_path / 'std.nii.gz'
    assert main(['denoise', str(tmp_path / 'dwi.nii.gz'), str(out), '--std', str(std)]) == 0
    assert read_json(tmp_path / 'out.json')['Parameters']['probes'] == 3 and std.exists()
    assert 'method: unet_pca' in capsys.readouterr().err
    words = ['denoise', tmp_path / 'dwi.nii.gz', tmp_path / 'o.nii.gz', '--std', tmp_path / 's.nii']
    assert main([*map(str, words), '--set', 'probes', '0']) == 2  # named by the user: refused
    assert 'probes' in capsys.readouterr().err and not (tmp_path / 'o.nii.gz').exists()


def test_a_score_by_itself():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(24, 24, 24, 2)).astype(np.float32)
    out, var = clean_scores(noise, probes=1, quiet=True)
    assert out.std() < 0.4 and var.mean() < 0.15  # Nothing but noise
    bright = 100 * np.linspace(-1, 1, 24, dtype=np.float32)[:, None, None, None] + noise
    assert np.abs(clean_scores(bright, quiet=True)[0] - bright).mean() < 1.2


def test_simple_axes_are_a_rotation_to_the_volumes_themselves():
    rng = np.random.default_rng(0)
    whole = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    turn = simple_axes(whole, np.full(7, 5.0))
    assert np.allclose(turn.T @ turn, np.eye(7), atol=1e-5)
    assert np.allclose(np.abs(whole @ turn).max(0), 1, atol=1e-3)  # All axes kept: one volume each
    part = np.linalg.qr(rng.normal(size=(30, 5)))[0]
    sharp = lambda basis: (basis**4).sum()
    assert sharp(part @ simple_axes(part, np.full(5, 5.0))) > 1.1 * sharp(part)


def test_a_response_of_a_few_voxels_is_kept():
    "One per cent of the signal in a block design, below the edge of the noise"
    head = simulate_dmri(*make_gradients({1000: 6}, n_b0=1), shape=(40, 44, 12))[0]
    base, at, task = head.data[..., 0], np.indices(head.data.shape[:3]), np.arange(40) // 10 % 2
    ball = sum((at[i] - c) ** 2 for i, c in enumerate((14, 18, 6))) < 16
    ball &= head.mask & (base > np.median(base[head.mask]))
    clean = base[..., None] * (1 + 0.01 * ball[..., None] * task)
    sigma = float(np.median(base[head.mask]) / 50)
    noisy = add_rician_noise(clean.astype(np.float32), sigma, generator(0))
    found = run(noisy, sigma, head.mask, probes=0)['denoised']
    few = find_components(to_states(noisy, sigma), head.mask).K
    bare = run(noisy, sigma, head.mask, probes=0, modes=few)['denoised']
    response = lambda x: (x[..., task == 1].mean(-1) - x[..., task == 0].mean(-1))[ball].mean()
    left = [float(response(x) / response(clean)) for x in (found, bare)]
    assert 0.6 < left[0] < 1 and left[1] < 0.3, left
    assert psnr(found, clean, head.mask) > psnr(noisy, clean, head.mask) + 10


@pytest.mark.parametrize('width', [0.0, 0.7])
@pytest.mark.parametrize('slices', [6, 30])
def test_noise_has_no_smooth_components(width, slices):
    "Also when it is correlated between voxels: the edge is that of such noise"
    gen, shape = generator(1), (26, 26, slices)
    noise = np.stack([correlated_noise(shape, width, gen) for _ in range(24)], -1)
    inside = np.zeros(shape, bool)
    inside[2:-2, 2:-2] = True
    alone = find_components(noise, inside, 1)
    assert with_smooth_components(alone, noise, inside).K == 1


def test_smooth_components_of_thin_masks_and_of_no_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(26, 26, 26, 16)).astype(np.float32)
    thin = np.zeros(x.shape[:3], bool)
    thin[:, :, 13] = True  # One slice, an odd one
    for inside in (thin, thin & (np.arange(26) < 2)[:, None, None]):
        bare = find_components(x, inside, 1)
        assert with_smooth_components(bare, x, inside).K == 1
    still = np.repeat(x[..., :1], 16, -1)
    bare = find_components(still, thin)
    assert with_smooth_components(bare, still, thin).axes.shape == (16, 16)


def test_a_mask_does_not_blind_the_network():
    "It says where to denoise; what lies around helps at the edge"
    table = make_gradients({1000: 12}, n_b0=2)
    scan, _ = simulate_dmri(*table, shape=(40, 48, 12), voxel_size=None)
    noisy = add_rician_noise(scan.data, 60.0, generator(0))
    how = dict(sigma=60.0, bvals=scan.bvals, probes=0)
    told, cut = (run(x, mask=scan.mask, **how) for x in (noisy, noisy * scan.mask[..., None]))
    free = run(noisy, **how)
    free, told, cut = (psnr(f['denoised'], scan.data, scan.mask) for f in (free, told, cut))
    assert abs(told - free) < 0.05 and told > cut + 0.02, (free, told, cut)


def test_where_memory_runs_out_the_result_is_there_and_a_note(monkeypatch):
    clean, _ = simulate_dmri(*make_gradients({1000: 6}, n_b0=2), shape=(56, 56, 8))
    noisy, sizes = add_rician_noise(clean.data, 60.0, generator(0)), []
    forward = UnitDenoiser.forward
    whole = run(noisy, 60.0, modes=2)

    def small(self, x, *args):
        sizes.append(x.numel())
        if x.numel() > 48 * 48 * 8:
            raise torch.OutOfMemoryError('pretended')
        return forward(self, x, *args)

    monkeypatch.setattr(UnitDenoiser, 'forward', small)
    found = run(noisy, 60.0, modes=2)
    assert any('memory ran out' in n for n in found['notes'])
    assert not any('memory' in n for n in whole['notes'])
    assert sizes[0] > 48 * 48 * 8 and max(sizes[1:]) <= 48 * 48 * 8  # One try is enough
    away = np.abs(found['denoised'] - whole['denoised'])
    assert np.median(away) < 0.02 * 60
