"Noise levels with a known truth: each interval covers it, and where the object is clean it is near"

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mri_diffusion.app.noise_checks import ScanNoise, read_noise_scan
from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.audit import audit
from mri_diffusion.judge.report import scan_kernel
from mri_diffusion.noise.correlation import kernel_lags, noise_kernel
from mri_diffusion.noise.describe import describe_noise
from mri_diffusion.noise.models import add_noise, rician_mean
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.phantoms.heads import shared_data
from mri_diffusion.scans.nifti import Scan, auto_mask

N, SIGMA = 160, 30.0
x, y = np.meshgrid(np.linspace(-1, 1, N), np.linspace(-1, 1, N), indexing='ij')
R = np.hypot(x, y)[..., None]
DISC = 1000.0 * (R < 0.7) * (1 + 0.2 * x[..., None])
FOLDS = DISC * (1 + 0.3 * (np.sin(30 * x) * np.sin(26 * y) > 0))[..., None]
CORE = R < 0.6


def robust(v):
    return np.median(abs(v - np.median(v))) / 0.6745


def complex_noise(shape, seed):
    g = np.random.default_rng(seed)
    return SIGMA * (g.standard_normal(shape) + 1j * g.standard_normal(shape))


def zero_filled(c, factor):
    "k-space padded with zeros to `factor` times its size"
    n = int(len(c) * factor) // 2 * 2
    k = np.fft.fftshift(np.fft.fft2(c, axes=(0, 1)), axes=(0, 1))
    low = (n - len(c)) // 2
    k = np.pad(k, [(low, n - len(c) - low)] * 2 + [(0, 0)])
    return np.fft.ifft2(np.fft.ifftshift(k, axes=(0, 1)), axes=(0, 1)) * (n / len(c)) ** 2


def coils_of_disc(s, n, seed):
    "Root of the sum of squares of n coils around the object"
    angle = np.arange(n) * 2 * np.pi / n
    far = [(x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2 for a in angle]
    maps = np.exp(-np.array(far) / 1.5)[..., None]
    maps = maps / np.sqrt((maps**2).sum(0))
    return np.sqrt(
        sum(abs(s * m + complex_noise(s.shape, seed + i)) ** 2 for i, m in enumerate(maps))
    )


def situation(name, s, seed):
    "A magnitude, and the std of one channel in the object"
    noisy, moved = abs(s + complex_noise(s.shape, seed)), None
    if name == 'plain':
        return noisy, SIGMA
    if name == 'blanked':
        return np.where(s > 0, noisy, 0), SIGMA
    if name.startswith('coils'):
        return coils_of_disc(s, int(name[5:]), seed), SIGMA
    if name.startswith('zero-filled'):
        factor = float(name.split()[1])
        noise = zero_filled(complex_noise(s.shape, seed), factor)
        return abs(zero_filled(s + complex_noise(s.shape, seed), factor)), noise.real.std()
    if name in ('half a voxel', 'spline'):
        how = dict(shift=(0.5, 0.5, 0), order=1) if 'half' in name else dict(shift=(0.4, 0.3, 0))
        moved = ndimage.shift(noisy, **how), ndimage.shift(s, **how)
        return moved[0], robust((moved[0] - moved[1])[CORE])
    if name == 'normalised':
        field = 1 / (1 - 0.6 * np.exp(-(R**2) / 0.5))
        field = field / np.median(field[CORE])
        return field * abs(s / field + complex_noise(s.shape, seed)), SIGMA
    if name == 'ghost':
        return abs(s + 0.06 * np.roll(s, N // 2, 0) + complex_noise(s.shape, seed)), SIGMA
    raise ValueError(name)


SITUATIONS = [
    'plain',
    'blanked',
    'coils2',
    'coils8',
    'coils32',
    'zero-filled 2',
    'zero-filled 1.5',
    'half a voxel',
    'spline',
    'normalised',
    'ghost',
]


@pytest.mark.parametrize('name', SITUATIONS)
def test_clean_object(name):
    for seed in (0, 100):
        noisy, truth = situation(name, DISC, seed)
        found = estimate_sigma(noisy)
        assert found.low <= truth <= found.high, (name, seed, found)
        assert abs(found.number / truth - 1) < 0.1, (name, seed, found)
        assert found.high <= 2 * found.low or any('factor of two' in n for n in found.notes)


@pytest.mark.parametrize('name', ['plain', 'blanked', 'coils8', 'half a voxel', 'ghost'])
def test_textured_object(name):
    noisy, truth = situation(name, FOLDS, 7)
    found = estimate_sigma(noisy)
    assert found.low <= truth <= found.high, found
    assert found.high <= 2 * found.low or any('factor of two' in n for n in found.notes), found


def test_half_a_voxel_says_so():
    noisy, truth = situation('half a voxel', DISC, 3)
    found = estimate_sigma(noisy)
    assert abs(found.number / truth - 1) < 0.1 and found.n_coils == 1
    assert any('interpolated' in n for n in found.notes)


def test_one_sigma_for_command_and_methods():
    noisy = situation('coils8', DISC, 5)[0]
    scan = Scan.from_array(noisy.astype(np.float32))
    told = describe_noise(scan)
    assert told['sigma'] == ScanNoise(scan).level.number and told['n_coils'] == 8
    assert told['low'] <= told['sigma'] <= told['high']


def test_noise_scan(tmp_path):
    g = 1 + (R < 0.4)
    noise = [abs(g * complex_noise(DISC.shape, s)) for s in range(3)]
    scan = Scan.from_array(np.float32(abs(DISC + g * complex_noise(DISC.shape, 9))))
    Scan.from_array(np.float32(np.stack(noise, -1))).save(tmp_path / 'noRF.nii.gz')
    scan.save(tmp_path / 'scan.nii.gz')
    found = read_noise_scan(tmp_path / 'noRF.nii.gz', scan)
    assert abs(np.median(found.sigma[R < 0.3]) / (2 * SIGMA) - 1) < 0.05
    assert abs(np.median(found.sigma[R > 0.6]) / SIGMA - 1) < 0.05
    with pytest.raises(InputError, match='noise alone'):
        read_noise_scan(tmp_path / 'scan.nii.gz', scan)
    small = Scan.from_array(np.ones((8, 8, 8), np.float32))
    with pytest.raises(InputError, match='same geometry'):
        read_noise_scan(tmp_path / 'noRF.nii.gz', small)


@pytest.mark.parametrize('kind', ['checkerboard', 'stripes', 'bone'])
def test_texture_is_no_correlation(kind):
    i, j, _ = np.indices((96, 96, 8))
    body = np.hypot(i - 48, j - 48) < 40
    bone = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(body.shape), 1.5) > 0
    pattern = dict(checkerboard=(i // 4 + j // 4) % 2, stripes=(i + 2 * j) // 5 % 2, bone=bone)[
        kind
    ]
    clean = 1000.0 * body * (1 + 0.2 * pattern)
    noisy = np.asarray(add_noise(clean, 20.0, gen=generator(1)), float)
    kernel, source = noise_kernel(noisy, body)
    assert kernel[6, 5] == 0 and source == 'background'
    exact = clean + 0.05 * (noisy - rician_mean(clean, 20.0))
    assert audit(noisy, exact, 20.0, body, kernel).verdict != 'do not trust'
    with pytest.raises(InputError, match='pattern'):
        noise_kernel(np.where(body, noisy, 0), body)


def pairs():
    folder = shared_data('repeat_pairs')
    return sorted(Path(folder).glob('*.nii.gz')) if folder else []


@pytest.mark.skipif(not pairs(), reason='shared/data/repeat_pairs is not on this machine')
def test_real_pairs():
    for path in pairs():
        both = np.asarray(nib.load(path).dataobj, float)
        core = ndimage.binary_erosion(auto_mask(both.mean(-1)), np.ones((9, 9, 1)))
        truth = robust((both[..., 1] - both[..., 0])[core]) / 2**0.5
        for v in (0, 1):
            found = estimate_sigma(both[..., v])
            assert found.low <= truth <= found.high, (path.name, truth, found)
            assert abs(found.number / truth - 1) < 0.1, (path.name, truth, found)


@pytest.mark.parametrize('n_volumes', [1, 3])
def test_one_correlation_for_command_and_audit(n_volumes):
    gen = generator(0)
    volumes = [add_noise(DISC, SIGMA, correlation=0.7, gen=gen) for _ in range(n_volumes)]
    bvals = None if n_volumes == 1 else np.zeros(n_volumes)
    data = np.float32(volumes[0] if n_volumes == 1 else np.stack(volumes, -1))
    scan = Scan.from_array(data, bvals=bvals)
    told, judged = describe_noise(scan), kernel_lags(scan_kernel(scan, None))
    warned = ScanNoise(scan).correlation[0]
    assert abs(told['correlation']['x'][0] - np.exp(-1 / 4 / 0.7**2)) < 0.1
    for axis in 'xy':
        assert np.allclose(told['correlation'][axis], judged[axis], atol=0.02)
        assert told['correlation'][axis] == warned[axis]


def test_folds_of_a_coarse_image_are_no_noise():
    "Texture at the scale of two voxels everywhere, as in a head at 2 mm"
    rng = np.random.default_rng(3)
    folds = ndimage.gaussian_filter(rng.standard_normal(DISC.shape), (1.0, 1.0, 0))
    clean = DISC * (1 + 0.4 * folds / folds.std())
    noisy = np.asarray(add_noise(abs(clean), SIGMA, gen=generator(5)), float)
    found = estimate_sigma(noisy)
    assert found.low <= SIGMA <= found.high, found
    assert abs(found.number / SIGMA - 1) < 0.3, found
    blanked = estimate_sigma(np.where(DISC > 0, noisy, 0))
    assert blanked.low <= SIGMA <= blanked.high, blanked
    assert blanked.high <= 2 * blanked.low or any('factor of two' in n for n in blanked.notes)
