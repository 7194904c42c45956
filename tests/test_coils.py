"From raw data: covariance, whitening, combination, noise scans in k-space, and bad input"

import json
from functools import cache
from pathlib import Path

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from test_true_raw import WIDE, acquisition, lines, oversampled, picture, write_ismrmrd

from mri_diffusion.core import InputError
from mri_diffusion.noise.coils import (
    NoNoise,
    coil_noise,
    mix_coils,
    noise_covariance,
    outer_noise,
    whitening,
)
from mri_diffusion.noise.combine import (
    Combined,
    adaptive_maps,
    combine_coils,
    magnitude_level,
    measure_coils,
)
from mri_diffusion.noise.kspace import apply_mask, coil_maps, simulate_kspace
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.fourier import ifft2c, rss
from mri_diffusion.scans.nifti import Scan
from mri_diffusion.scans.raw import RawScan, load_ismrmrd, read_raw

DATA = Path(__file__).parents[2] / 'shared/data/raw_coils'
SIGMA = 0.05
needs_data = pytest.mark.skipif(not DATA.exists(), reason='the real raw data are not here')


@cache
def head(size=96):
    t1 = load_t1(downsample=2).data[:, :, 45]
    out = np.zeros((size, size), np.float32)
    part = t1[1:97, 10:106][:size, :size]
    out[: part.shape[0], : part.shape[1]] = part
    return torch.from_numpy(out.T.copy())


def covariance(n, rho, sigma=SIGMA):
    "Coils on a ring with the correlation rho between neighbours"
    d = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs()
    return sigma**2 * (float(rho) ** torch.minimum(d, n - d).double()).to(torch.complex128)


def draw(cov, shape, seed):
    gen = torch.Generator().manual_seed(seed)
    white = torch.complex(*torch.randn(2, len(cov), *shape, generator=gen, dtype=torch.float64))
    return torch.einsum('cd,d...->c...', torch.linalg.cholesky(cov), white).to(torch.complex64)


def kspace(n=8, rho=0.3, seed=0, sigma=SIGMA):
    image = head()
    cov = covariance(n, rho, sigma)
    return simulate_kspace(image, coil_maps(image.shape, n)) + draw(cov, image.shape, seed)


def scan_of(k, **kw):
    return RawScan(k[None, None], (2, 2, 2), None, (0, k.shape[-1]), {}, [], **kw)


def write(path, k, xml=b''):
    with h5py.File(path, 'w') as f:
        f['kspace'], f['ismrmrd_header'] = k.numpy(), xml
    return path


@pytest.mark.parametrize(('n', 'rho'), [(4, 0.0), (8, 0.5), (16, 0.2)])
def test_the_outer_kspace_gives_the_covariance(n, rho):
    found, true = coil_noise(kspace(n, rho)[None, None]), covariance(n, rho)
    assert found.sigma == pytest.approx(SIGMA, rel=0.03)
    assert float((found.cov - true).norm() / true.norm()) < 0.15
    white = mix_coils(whitening(found.cov), draw(true, (200, 200), 1))
    assert (noise_covariance(white.flatten(1)) - torch.eye(n)).abs().max() < 0.15
    assert found.profile is None


def test_whitening_is_invertible_and_has_an_adjoint():
    cov = noise_covariance(draw(covariance(6, 0.5), (500,), 3))
    W = whitening(cov)
    eye = torch.eye(6, dtype=torch.complex128)
    assert torch.allclose(W @ cov @ W.mH, eye, atol=1e-9)
    assert torch.allclose(torch.linalg.inv(W) @ W, eye, atol=1e-9)
    x, y = torch.randn(2, 6, 7, 8, dtype=torch.complex128)
    left = torch.vdot(mix_coils(W, x).flatten(), y.flatten())
    assert torch.allclose(left, torch.vdot(x.flatten(), mix_coils(W.mH, y).flatten()))


@pytest.mark.parametrize('rho', [0.0, 0.5])
def test_pseudo_replicas_have_the_noise_of_the_map(rho):
    runs = [combine_coils(scan_of(kspace(8, rho, seed))) for seed in range(12)]
    data, sigma = np.stack([r.data[..., 0] for r in runs]), runs[0].sigma[..., 0]
    strong = np.abs(data).mean(0) > 8
    air = np.abs(data).mean(0) < 1.6
    std = np.abs(data).std(0, ddof=1) / sigma
    power = (np.abs(data) ** 2).mean(0) / 2 / sigma**2
    assert np.sqrt((std[strong] ** 2).mean()) == pytest.approx(1, abs=0.05)
    assert np.sqrt(power[air].mean()) == pytest.approx(1, abs=0.08)
    assert data.dtype == np.complex64 and runs[0].n_coils == 1


def test_sense_unfolds_a_regular_half_with_its_g_factor(tmp_path, cli):
    seen = (torch.arange(96) - 48) % 2 == 1
    seen[38:58] = True
    folded = apply_mask(kspace(8, 0.2, sigma=0.01), seen, -1)
    found = combine_coils(scan_of(folded))
    whole = combine_coils(scan_of(kspace(8, 0.2, sigma=0.01)))
    assert isinstance(found, Combined) and found.accel == 2 and found.sigma.min() >= 2**0.5 - 1e-3
    ratio = np.abs(found.data) / found.sigma.mean(), np.abs(whole.data)
    inside = ratio[1] > 20
    scale = np.median(np.abs(found.data)[inside] / np.abs(whole.data)[inside])
    assert np.corrcoef(np.abs(found.data)[inside], np.abs(whole.data)[inside])[0, 1] > 0.97
    assert 0.8 < scale < 1.2
    write(tmp_path / 'half.h5', folded[None])
    done = cli('denoise', tmp_path / 'half.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 0 and 'SENSE' in done.err, done.err


def test_lines_left_out_irregularly_are_refused(tmp_path, cli):
    seen = torch.rand(96, generator=torch.Generator().manual_seed(0)) > 0.5
    seen[40:56] = True
    write(tmp_path / 'odd.h5', apply_mask(kspace(), seen, -1)[None])
    done = cli('denoise', tmp_path / 'odd.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 2 and 'irregularly' in done.err and done.err.count('\n') == 1
    seen = torch.arange(96) % 2 == 0
    write(tmp_path / 'bare.h5', apply_mask(kspace(), seen, -1)[None])
    done = cli('denoise', tmp_path / 'bare.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 2 and 'at least 16' in done.err
    assert not (tmp_path / 'o.nii.gz').exists()


def test_denoise_says_what_was_measured(tmp_path, cli):
    write(tmp_path / 'a.h5', kspace()[None])
    words = '--method', 'nlmeans', '--noise-map', tmp_path / 's.nii.gz'
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', *words)
    assert done.code == 0, done.err
    said = json.loads((tmp_path / 'o.json').read_text())
    notes = ' '.join(said['Notes'])
    assert '8 coils, ' in notes and 'effective' in notes and 'units of the noise' in notes
    assert np.allclose(nib.load(tmp_path / 's.nii.gz').get_fdata(), 1)
    files = [tmp_path / f'{how}.nii.gz' for how in ('sos', 'adaptive')]
    for f in files:
        how = '--method', 'identity', '--combine', f.name.split('.')[0]
        done = cli('denoise', tmp_path / 'a.h5', f, *how)
        assert done.code == 0 and ('chi noise of 8 coils' in done.err) == ('sos' in f.name)
    dark = [np.quantile(Scan.load(f).data, 0.1) for f in files]
    assert dark[0] > 2.5 and dark[1] < 1.2


def test_the_adaptive_image_stays_complex(tmp_path, cli):
    "The real channel of raw data has Gaussian noise of the level of its map, and no floor"
    write(tmp_path / 'a.h5', kspace()[None])
    files = {p: tmp_path / f'{p}.nii.gz' for p in ('magnitude', 'real', 'complex')}
    for part, f in files.items():
        done = cli('denoise', tmp_path / 'a.h5', f, '--method', 'identity', '--part', part)
        assert done.code == 0 and 'Gaussian channels' in done.err, done.err
    z = combine_coils(read_raw(tmp_path / 'a.h5'))
    whole = np.asarray(nib.load(files['complex']).dataobj)
    assert np.allclose(whole, z.data, atol=1e-4) and whole.dtype == np.complex64
    size, real = (Scan.load(files[p]).data for p in ('magnitude', 'real'))
    assert np.allclose(size, np.abs(z.data), atol=1e-4)
    air = np.abs(z.data) < np.quantile(np.abs(z.data), 0.3)  # A quantile of the magnitude: no sign
    assert abs(real[air].mean()) < 0.05 < 0.5 < size[air].mean()
    done = cli(
        'denoise', tmp_path / 'a.h5', tmp_path / 'b.nii.gz', '--combine', 'sos', '--part', 'real'
    )
    assert done.code == 2 and 'leave --sigma and --combine sos out' in done.err
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'b.nii.gz', '--phase', files['real'])
    assert done.code == 2 and 'holds its phase' in done.err


def test_noise_prints_the_coils(tmp_path, cli):
    write(tmp_path / 'a.h5', kspace(8, 0.5)[None])
    done = cli('noise', tmp_path / 'a.h5', '--json', tmp_path / 'n.json')
    assert done.code == 0 and 'coils         8, effective' in done.out, done.err
    found = json.loads((tmp_path / 'n.json').read_text())['coils']
    assert found['sigma'] == pytest.approx(SIGMA, rel=0.04)
    assert found['sigma_magnitude'] == pytest.approx(SIGMA, rel=0.1)
    assert found['correlation_max'] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize('first', [0, 30])
def test_noise_of_partial_fourier_is_that_of_the_image(tmp_path, cli, first):
    "Zeros of k-space bring no noise: sigma in image units is lower than that of a sample"
    seen = torch.arange(96) >= first
    write(tmp_path / 'a.h5', apply_mask(kspace(8, 0.0), seen, -1)[None])
    done = cli('noise', tmp_path / 'a.h5', '--json', tmp_path / 'n.json')
    assert done.code == 0, done.err
    found = json.loads((tmp_path / 'n.json').read_text())
    assert found['sigma'] == pytest.approx(SIGMA * (1 - first / 96) ** 0.5, rel=0.04)
    assert found['coils']['sigma'] == pytest.approx(SIGMA, rel=0.04)
    assert found['coils']['sigma_magnitude'] == pytest.approx(SIGMA, rel=0.1)
    assert not any('the background' in n and 'tells' in n for n in found['notes'])


def test_a_level_that_the_background_contradicts_is_said(tmp_path, cli):
    "Hard edges in a small matrix: signal lies in the corners of k-space"
    k = simulate_kspace(10 * (head() > 0.2).float(), coil_maps((96, 96), 4))
    write(tmp_path / 'a.h5', (k + draw(covariance(4, 0.0), (96, 96), 0))[None])
    done = cli('noise', tmp_path / 'a.h5', '--json', tmp_path / 'n.json')
    found = json.loads((tmp_path / 'n.json').read_text())
    assert abs(found['coils']['sigma'] / found['coils']['sigma_magnitude'] - 1) > 0.2
    assert done.code == 0 and 'a noise scan (--noise-scan) tells' in done.out


@pytest.mark.parametrize('words', [('--combine', 'sos'), ('--sigma', '0.05')])
@pytest.mark.parametrize('part', ['real', 'complex'])
def test_a_part_that_no_magnitude_has(tmp_path, cli, words, part):
    write(tmp_path / 'a.h5', kspace()[None])
    how = '--method', 'blur', '--part', part, *words
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', *how)
    assert done.code == 2 and 'leave --sigma and --combine sos out' in done.err, done.err
    assert '--phase' not in done.err and not (tmp_path / 'o.nii.gz').exists()


@needs_data
def test_the_phantom_of_sixteen_coils(cli, tmp_path):
    raw = read_raw(DATA / 'phantom16.h5')
    scan, coils = raw.images(), measure_coils(raw)
    rows = np.r_[0:12, 116:128]  # Beside the object, the whole readout
    air = scan.data[:, rows]
    assert 3.1 < air.mean() / air.std() < 3.6  # 7.9 for 16 white coils
    assert 9 < coils.effective < 10.2 and coils.between[0] == pytest.approx(0.16, abs=0.03)
    assert coils.profile.min() < 0.6 and coils.profile.max() < 1.25
    images = ifft2c(raw.kspace[0, 0])[:, rows]
    power = images.abs().square().mean((1, 2)) / 2
    assert coils.sigma == pytest.approx(float(power.mean().sqrt()), rel=0.04)
    told = {n: estimate_sigma(scan.data, 'background', None, n).number for n in (1, 16)}
    assert told[16] / coils.sigma == pytest.approx(0.77, abs=0.05)
    assert 3 < told[1] / coils.sigma < 3.7
    assert magnitude_level(raw, coils, scan) == pytest.approx(coils.sigma, rel=0.1)
    sos = combine_coils(raw, 'sos')
    even = (sos.data / sos.sigma)[:, rows]
    assert 7 < even.mean() / even.std() < 8.2  # White, and the filter undone: 16 coils again
    one = combine_coils(raw)
    even = np.abs(one.data / one.sigma)[:, rows]
    assert np.sqrt((even**2).mean() / 2) == pytest.approx(1, abs=0.05)
    assert 1.75 < even.mean() / even.std() < 1.95  # Rayleigh: 1.91


@needs_data
def test_two_noisy_coils():
    raw = read_raw(DATA / 'phantom2.h5')
    coils = measure_coils(raw)
    assert coils.effective == pytest.approx(2, abs=0.02)
    assert magnitude_level(raw, coils, raw.images()) == pytest.approx(coils.sigma, rel=0.1)


def test_an_empty_coil_is_left_out_and_a_deaf_one_is_harmless():
    k = kspace()
    k[2] = 0
    found = combine_coils(scan_of(k))
    assert any('coils [2] of 8 are empty' in n for n in found.notes) and len(found.noise.cov) == 7
    deaf = torch.cat([kspace(), draw(covariance(2, 0.0), (96, 96), 9)[:1]])
    with_it, without = combine_coils(scan_of(deaf)), combine_coils(scan_of(kspace()))
    strong = np.abs(without.data) > 8
    ratio = np.abs(with_it.data)[strong] / np.abs(without.data)[strong]
    assert abs(ratio.mean() - 1) < 0.03


def test_one_coil(tmp_path, cli):
    write(tmp_path / 'a.h5', kspace(1, 0.0))
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 0 and '1 coils, 1.0 effective' in done.err, done.err


def test_a_scan_without_noise_falls_back_with_a_note(tmp_path, cli):
    image = torch.from_numpy(ndimage.gaussian_filter(head().numpy(), 3))
    write(tmp_path / 'a.h5', simulate_kspace(image, coil_maps(image.shape, 4))[None])
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 0 and 'sum of squares, since' in done.err
    words = '--method', 'blur', '--combine', 'adaptive'
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'p.nii.gz', *words)
    assert done.code == 2 and 'give a noise scan' in done.err and done.err.count('\n') == 1


def test_a_noise_scan_in_kspace(tmp_path, cli):
    write(tmp_path / 'a.h5', kspace()[None])
    write(tmp_path / 'n.h5', draw(covariance(8, 0.3), (4, 500), 5)[None])
    write(tmp_path / 'three.h5', draw(covariance(3, 0.3), (4, 500), 5)[None])
    words = '--method', 'blur', '--noise-scan'
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', *words, tmp_path / 'n.h5')
    assert done.code == 0 and 'from the noise measurement' in done.err, done.err
    assert 'same bandwidth' in done.err
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'p.nii.gz', *words, tmp_path / 'three.h5')
    assert done.code == 2 and 'noise scan of 3 coils, but the scan has 8' in done.err
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'p.nii.gz', *words, tmp_path / 'a.h5')
    assert done.code == 2 and 'more than noise' in done.err  # An object
    assert not (tmp_path / 'p.nii.gz').exists()


def noisy_lines(k, noise, dwell=(5.0, 5.0)):
    "Acquisitions of a noise measurement and of every line"
    first = acquisition(noise, [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    found = [first, *lines(k)]
    for a in found:
        a.sample_time_us = dwell[0] if a is first else dwell[1]
    return found


def ismrmrd_scan(sigma=0.05):
    k = oversampled(picture(48, 32)).numpy()
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2, *k.shape)) * sigma
    return (k + draws[0] + 1j * draws[1]).astype(np.complex64)


@pytest.mark.parametrize('bandwidth', [1, 2])
def test_a_noise_measurement_of_another_bandwidth(tmp_path, bandwidth):
    rng = np.random.default_rng(1)
    level = 0.05 / bandwidth**0.5  # Longer dwell: less noise
    noise = (rng.normal(size=(3, 4000, 2)) * level) @ np.array([1, 1j])
    found = noisy_lines(ismrmrd_scan(), noise.astype(np.complex64), (5.0 * bandwidth, 5.0))
    write_ismrmrd(tmp_path / 'a.h5', found, WIDE)
    raw = load_ismrmrd(tmp_path / 'a.h5')
    coils = measure_coils(raw)
    assert coils.source == 'noise measurement' and coils.sigma == pytest.approx(0.05, rel=0.03)
    said = ' '.join(raw.notes)
    assert ('10 us a sample, the scan at 5 us' in said) == (bandwidth == 2)


def test_a_noise_measurement_of_other_coils_is_not_used(tmp_path):
    rng = np.random.default_rng(1)
    noise = (rng.normal(size=(2, 400, 2)) * 0.05) @ np.array([1, 1j])
    write_ismrmrd(tmp_path / 'a.h5', noisy_lines(ismrmrd_scan(), noise.astype(np.complex64)), WIDE)
    raw = load_ismrmrd(tmp_path / 'a.h5')
    assert raw.noise is None and any('2 coils and the scan 3' in n for n in raw.notes)


def test_half_of_kspace_is_zero_filled_with_a_note(tmp_path, cli):
    k = kspace(8, 0.3)
    k[..., :36] = 0
    write(tmp_path / 'a.h5', k[None])
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 0 and 'partial Fourier: 60 of 96 columns' in done.err, done.err
    found = combine_coils(scan_of(k))
    assert found.data.shape == (96, 96, 1)
    assert found.sigma.mean() == pytest.approx((60 / 96) ** 0.5, rel=1e-3)
    air = np.abs(found.data)[:12] / found.sigma[:12]
    assert np.sqrt((air**2).mean() / 2) == pytest.approx(1, abs=0.1)
    k[..., :50] = 0
    write(tmp_path / 'b.h5', k[None])
    done = cli('denoise', tmp_path / 'b.h5', tmp_path / 'p.nii.gz', '--method', 'blur')
    assert done.code == 2 and 'centre is missing' in done.err


def test_ismrmrd_partial_fourier_and_no_encoding(tmp_path, cli):
    some = [a for a in lines(ismrmrd_scan()) if a.idx.kspace_encode_step_1 > 9]
    write_ismrmrd(tmp_path / 'a.h5', some, WIDE)
    done = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert done.code == 0 and 'partial Fourier: 22 of 32 columns' in done.err, done.err
    bare = '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>'
    write_ismrmrd(tmp_path / 'b.h5', lines(ismrmrd_scan()), bare)
    done = cli('denoise', tmp_path / 'b.h5', tmp_path / 'p.nii.gz', '--method', 'blur')
    assert done.code == 0 and 'no field of view' in done.err, done.err


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--combine', 'best'], "combine 'best': unknown"),
        (['--combine', 'sos', '--sigma', '1'], '--sigma and --combine'),
        (['--noise-volumes', '-1'], '--noise-volumes: raw data'),
    ],
)
def test_options_that_do_not_fit_raw_data(tmp_path, cli, words, said):
    write(tmp_path / 'a.h5', kspace()[None])
    out = tmp_path / 'o.nii.gz'
    done = cli('denoise', tmp_path / 'a.h5', out, '--method', 'blur', *words)
    assert done.code == 2 and said in done.err and done.err.count('\n') == 1 and not out.exists()


def test_options_of_raw_data_for_an_image(files, tmp_path, cli):
    write(tmp_path / 'n.h5', draw(covariance(8, 0.3), (4, 500), 5)[None])
    for words in (['--combine', 'sos'], ['--noise-scan', tmp_path / 'n.h5']):
        out = tmp_path / 'o.nii.gz'
        done = cli('denoise', files / 'noisy.nii.gz', out, '--method', 'blur', *words)
        assert done.code == 2 and 'raw k-space' in done.err and not out.exists()


def test_maps_follow_the_coils_on_fine_grids():
    image = torch.nn.functional.interpolate(head()[None, None], scale_factor=2)[0, 0]
    true = coil_maps(image.shape, 6)
    maps = adaptive_maps(
        (20 * true * image + 0 * true)[None] + draw(torch.eye(6).cdouble(), image.shape, 1)
    )
    along = (maps.conj() * true).sum(0).abs()
    assert along[image > 0.3].mean() > 0.995
    assert torch.allclose(rss(maps), torch.ones(image.shape).double(), atol=1e-6)


def test_too_few_samples_are_refused():
    with pytest.raises(NoNoise, match='too small'):
        outer_noise(torch.ones(1, 2, 8, 8, dtype=torch.complex64))
    with pytest.raises(InputError, match='at least as many samples'):
        noise_covariance(draw(covariance(8, 0.0), (5,), 0))
    same = draw(covariance(2, 0.0), (5000,), 0)[[0, 0]]
    with pytest.raises(InputError, match='same noise'):
        whitening(noise_covariance(same))
