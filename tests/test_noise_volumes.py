"Volumes of a series that hold noise alone, and noise scans: level, map, correlation, bad input"

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.app.noise_checks import (
    ScanNoise,
    parse_volumes,
    read_noise_scan,
    read_noise_volumes,
    take_noise_volumes,
)
from mri_diffusion.core import InputError, generator
from mri_diffusion.methods.registry import get_method
from mri_diffusion.noise.models import add_noise
from mri_diffusion.scans.complex import ComplexScan
from mri_diffusion.scans.nifti import Scan

DATA = Path(__file__).parents[2] / 'shared/data/noise_scans'
needs_data = pytest.mark.skipif(not DATA.exists(), reason='the real noise scans are not here')
SHAPE, SIGMA = (24, 22, 12), 5.0


def series(correlation=0.0, alone=2, gfactor=False, seed=0):
    "Seven volumes of a ball, then `alone` of noise; the map of its level"
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij'))
    ball = 200.0 * ((grid**2).sum(0) < 0.6)
    sigma = SIGMA * (1.5 - 0.5 * np.abs(grid[0]) if gfactor else np.ones(SHAPE))
    b = np.array([0] + [1000] * 6 + [0] * alone)
    gen = generator(seed)
    level = lambda k: ball * np.exp(-b[k] / 1500) if k < 7 else 0 * ball
    data = [add_noise(level(k), sigma, correlation=correlation, gen=gen) for k in range(7 + alone)]
    bvecs = np.random.default_rng(0).normal(size=(len(b), 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[b == 0] = 0
    return Scan.from_array(np.stack(data, -1), np.diag([2, 2, 2, 1.0]), b, bvecs), sigma


@pytest.fixture
def stored(tmp_path):
    scan, sigma = series(gfactor=True)
    scan.save(tmp_path / 'dwi.nii.gz')
    return tmp_path / 'dwi.nii.gz', sigma


def test_they_give_the_map_and_are_left_out(stored, cli, tmp_path):
    path, sigma = stored
    words = '--noise-volumes', '-1,-2', '--method', 'nlmeans', '--noise-map', tmp_path / 's.nii.gz'
    done = cli('denoise', path, tmp_path / 'o.nii.gz', *words)
    assert done.code == 0, done.err
    assert 'volumes 7, 8 hold noise alone' in done.err and 'left out' in done.err
    out = Scan.load(tmp_path / 'o.nii.gz')
    assert out.shape == (*SHAPE, 7) and out.bvals.tolist() == [0] + [1000] * 6
    assert out.bvecs.shape == (7, 3)
    found = nib.load(tmp_path / 's.nii.gz').get_fdata()
    assert np.abs(found / sigma - 1).mean() < 0.06
    record = json.loads((tmp_path / 'o.json').read_text())
    assert 'noise volumes' in json.dumps(record)


def test_of_complex_data_both_channels_count(cli, tmp_path):
    scan, sigma = series()
    gen = np.random.default_rng(1)
    noise = gen.normal(size=(2, *scan.shape)) * SIGMA
    z = np.where(np.arange(9) < 7, scan.data, 0) + noise[0] + 1j * noise[1]
    img = nib.Nifti1Image(z.astype(np.complex64), scan.affine)
    nib.save(img, tmp_path / 'z.nii.gz')
    words = '--noise-volumes', '7,8', '--method', 'identity', '--noise-map', tmp_path / 's.nii.gz'
    done = cli('denoise', tmp_path / 'z.nii.gz', tmp_path / 'o.nii.gz', *words, '--part', 'real')
    assert done.code == 0, done.err
    assert Scan.load(tmp_path / 'o.nii.gz').shape == (*SHAPE, 7)
    found = nib.load(tmp_path / 's.nii.gz').get_fdata()
    assert np.abs(found / SIGMA - 1).mean() < 0.05


def test_noise_prints_them(stored, cli, tmp_path):
    path, sigma = stored
    words = '--noise-volumes', '7,8', '--map', tmp_path / 's.nii.gz', '--json', tmp_path / 'n.json'
    done = cli('noise', path, *words)
    assert done.code == 0 and 'from the noise volumes' in done.out, done.err
    found = json.loads((tmp_path / 'n.json').read_text())
    assert found['correlation_from'] == 'noise alone' and found['how'] == 'noise_scan'
    assert np.abs(nib.load(tmp_path / 's.nii.gz').get_fdata() / sigma - 1).mean() < 0.06


@pytest.mark.parametrize('width', [0.0, 0.7])
def test_their_correlation_warns_a_method(width):
    rest, alone = take_noise_volumes(series(width, alone=3)[0], '-1,-2,-3')
    known = read_noise_volumes(alone, rest)
    lag = known.correlation['x'][0]
    assert lag == pytest.approx(0.58, abs=0.07) if width else lag < 0.1
    said = ScanNoise(rest, known).warnings(get_method('nlmeans'))
    assert any('independent' in line for line in said) == (width > 0)
    notes = Denoiser('nlmeans').denoise(rest, known).meta['notes']
    assert any('independent' in line for line in notes) == (width > 0)


@pytest.mark.parametrize('signed', [True, False])
def test_chance_of_few_pairs_is_no_correlation(signed):
    "Four slices have few pairs of slices: over seeds, what chance shows there is not taken for more"
    rest = Scan.from_array(np.ones((24, 22, 4), np.float32))
    rest.sidecar['DataKind'] = 'signed' if signed else 'magnitude'
    for seed in range(30):
        a = np.random.default_rng(seed).normal(size=(24, 22, 4, 2)) * SIGMA
        b = np.random.default_rng(seed + 100).normal(size=a.shape) * SIGMA
        found = read_noise_volumes(a if signed else np.hypot(a, b), rest)
        assert not any(v for lags in found.correlation.values() for v in lags), seed


@pytest.mark.parametrize('part', ['magnitude', 'real', 'complex'])
def test_of_a_complex_series(cli, tmp_path, part):
    truth = series(alone=0)[0].data * 0 + np.linspace(0, 100, SHAPE[0])[:, None, None, None]
    turn = np.exp(1j * np.linspace(0, 3, SHAPE[1]))[:, None, None]
    a = np.random.default_rng(0).normal(size=(2, *SHAPE, 9)) * SIGMA
    z = np.concatenate([truth, 0 * truth[..., :2]], 3) * turn + a[0] + 1j * a[1]
    b = np.array([0.0] + [1000] * 6 + [0] * 2)
    bvecs = np.eye(3)[np.arange(9) % 3] * (b > 0)[:, None]
    ComplexScan.from_array(z, bvals=b, bvecs=bvecs).save(tmp_path / 'z.nii.gz')
    out = tmp_path / 'o.nii.gz'
    words = 'denoise', tmp_path / 'z.nii.gz', out, '--method', 'pca', '--part', part
    done = cli(*words, '--noise-volumes', '-1,-2', '--noise-map', tmp_path / 's.nii.gz')
    assert done.code == 0 and 'left out' in done.err, done.err
    found = np.asarray(nib.load(out).dataobj)
    assert found.shape == (*SHAPE, 7) and np.iscomplexobj(found) == (part == 'complex')
    assert np.sqrt(((abs(found) - truth)[8:] ** 2).mean()) < 0.4 * SIGMA
    assert np.loadtxt(tmp_path / 'o.bval').tolist() == b[:7].tolist()
    assert abs(nib.load(tmp_path / 's.nii.gz').get_fdata() / SIGMA - 1).mean() < 0.06


def test_levels_of_volumes_are_taken_apart_too():
    z = np.random.default_rng(0).normal(size=(8, 8, 4, 5)) + 1j
    rest, alone = take_noise_volumes(ComplexScan.from_array(z, sigma=np.arange(1.0, 6)), '-1')
    assert rest.sigma.tolist() == [1, 2, 3, 4] and alone.shape == (8, 8, 4, 1)


def test_another_request_is_not_taken_for_this_one(stored, cli, tmp_path):
    "What was asked for then and is not asked for now counts, too"
    out, alone = tmp_path / 'o.nii.gz', ('--noise-volumes', '-1,-2')
    words = 'denoise', stored[0], out, '--method', 'blur'
    assert cli(*words, *alone).code == 0
    done = cli(*words, *alone)
    assert done.code == 0 and 'finished before' in done.out
    for other in ((), (*alone, '--coils', '2')):
        done = cli(*words, *other)
        assert done.code == 2 and 'was made with' in done.err, done.out


def test_one_volume_left_is_a_volume():
    rest, alone = take_noise_volumes(series(alone=1)[0], range(1, 8))
    assert rest.shape == SHAPE and alone.shape == (*SHAPE, 7) and rest.bvals is None


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('-1,9', 'there is no volume 9; the series has 9, 0 to 8'),
        ('-10', 'there is no volume -10'),
        ('0,1,2,3,4,5,6,7,8', 'names every volume'),
        ('last', 'give whole numbers'),
        ('', 'give whole numbers'),
        ('1.5', 'give whole numbers'),
        ('0,1', 'not a scan of noise alone'),
        ('-1,0', 'not a scan of noise alone'),
    ],
)
def test_bad_volumes(stored, cli, tmp_path, given, said):
    out = tmp_path / 'o.nii.gz'
    words = f'--noise-volumes={given}', '--method', 'blur'
    done = cli('denoise', stored[0], out, *words)
    assert done.code == 2 and said in done.err and done.err.count('\n') == 1, done.err
    assert not out.exists()
    done = cli('noise', stored[0], words[0])
    assert done.code == 2 and said in done.err


def test_of_a_volume_and_beside_other_levels(stored, files, cli, tmp_path):
    words = '--noise-volumes', '-1', '--method', 'blur'
    done = cli('denoise', files / 'noisy.nii.gz', tmp_path / 'o.nii.gz', *words)
    assert done.code == 2 and 'of a series (X, Y, Z, V)' in done.err
    done = cli('denoise', stored[0], tmp_path / 'o.nii.gz', *words, '--sigma', '3')
    assert done.code == 2 and 'both give the noise level' in done.err
    assert not (tmp_path / 'o.nii.gz').exists()


def test_duplicates_and_order_do_not_matter():
    assert parse_volumes('-1,8,-2', 9) == [7, 8] == parse_volumes([8, 7], 9)
    with pytest.raises(InputError, match='names none'):
        parse_volumes([], 9)


@needs_data
def test_a_real_noise_scan():
    scan = Scan.load(DATA / 'dwi.nii.gz', DATA / 'dwi.bval')
    found = read_noise_scan(DATA / 'noise_scans.nii.gz', scan)
    assert found.sigma.shape == scan.shape[:3] and found.number == pytest.approx(1900, rel=0.1)
    lags = found.correlation
    assert lags['x'][0] > 0.4 > lags['y'][0] > lags['z'][0]  # Interpolated along x the most
    both = np.concatenate([scan.data, Scan.load(DATA / 'noise_scans.nii.gz').data], -1)
    rest, alone = take_noise_volumes(Scan.from_array(both, scan.affine), range(45, 51))
    same = read_noise_volumes(alone, rest)
    assert np.allclose(same.sigma, found.sigma) and rest.shape == scan.shape
