"The scan whose way is known: a valid BIDS folder, its moments, and what is refused"

import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.core import InputError
from mri_diffusion.noise import chain as module
from mri_diffusion.noise.chain import Scanner, read_chain, scan_chain, t1_weighted, write_chain
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri
from mri_diffusion.scans.bids import sort_bids
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def head():
    return simulate_dmri(*make_gradients({1000: 6}, 1), (24, 24, 4), voxel_size=(8, 8, 8))


@pytest.fixture(scope='module')
def folder(head, tmp_path_factory):
    "Two runs and a T1-weighted volume; no test changes it"
    series, parts = head
    scanner = Scanner(n_coils=4, accel=2, partial=0.75, acquired=0.75)
    runs = [scan_chain(series, scanner, 15, run=k) for k in range(2)]
    t1 = Scan.from_array(t1_weighted(parts), series.affine, mask=series.mask)
    anat = scan_chain(t1, Scanner(n_coils=4, combine='rss'), 30)
    return write_chain(tmp_path_factory.mktemp('chain') / 'bids', runs, anat)


def errors(folder):
    command = 'bids-validator-deno', str(folder), '--format', 'json'
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    return [i for i in found['issues']['issues'] if i['severity'] == 'error']


@pytest.mark.skipif(shutil.which('bids-validator-deno') is None, reason='no validator')
def test_scan_and_truth_are_valid_bids(folder):
    assert errors(folder) == [] and errors(folder / 'derivatives/truth') == []


def test_readers_find_magnitude_phase_noise_and_truth(folder, head):
    scans, others = sort_bids(folder)
    names = [s.path.name for s in scans]
    assert names == ['sub-01_part-mag_T1w.nii.gz'] + [
        f'sub-01_run-{k}_part-mag_dwi.nii.gz' for k in (1, 2)
    ]
    assert [p.path.name for p in others['noise scan'] if 'mag' in p.path.name] == [
        f'sub-01_run-{k}_part-mag_noRF.nii.gz' for k in (1, 2)
    ]
    assert scans[1].noise.name == 'sub-01_run-1_part-mag_noRF.nii.gz'
    side = json.loads((folder / 'sub-01/dwi/sub-01_run-1_part-phase_dwi.json').read_text())
    assert side['Units'] == 'rad' and side['PartialFourier'] == 0.75
    assert side['ParallelReductionFactorInPlane'] == 2
    for end in ('bval', 'bvec'):
        assert (folder / f'sub-01/dwi/sub-01_run-2_part-phase_dwi.{end}').is_file()
    found = read_chain(folder)
    mag, phase = (
        nib.load(folder / f'sub-01/dwi/sub-01_run-1_part-{p}_dwi.nii.gz').get_fdata()
        for p in ('mag', 'phase')
    )
    truth = folder / 'derivatives/truth/sub-01/dwi/sub-01_part-phase_desc-chain_dwi.nii.gz'
    clean = found.clean.data * np.exp(1j * nib.load(truth).get_fdata())
    z = (mag * np.exp(1j * phase) - clean) / found.sigma[..., None]
    assert abs(z.real.std() - 1) < 0.03 and abs(z.imag.std() - 1) < 0.03
    assert abs(z.mean()) < 0.05 and found.combine == 'sense' and found.snr == 15
    assert np.array_equal(found.clean.mask, head[0].mask)


def test_rss_of_correlated_noise_has_the_moments_of_its_covariance(head):
    "E m^2 = 2 sigma^2 n whatever the correlation; its variance grows with |Psi|^2"
    import torch

    from mri_diffusion.core import generator
    from mri_diffusion.noise.chain import acquire, coil_covariance, reconstruct
    from mri_diffusion.noise.kspace import coil_maps

    maps, gen = coil_maps((2, 24, 24), 6, gen=generator(1)), generator(2)
    zero = torch.zeros(60, 2, 24, 24, dtype=torch.complex64)
    for rho in (0.0, 0.6):
        s, cov = Scanner(6, rho, combine='rss'), coil_covariance(6, rho, generator(3))
        m = reconstruct(acquire(zero, maps, s, 2.0, cov, gen), maps, s, cov).abs().double()
        assert abs((m**2).mean() / (2 * 4 * 6) - 1) < 0.01
        spread = 4 * 16 * (cov.abs() ** 2).sum()
        assert abs((m**2).var() / spread - 1) < 0.05


def test_a_seed_fixes_the_scan_and_a_run_its_noise(head):
    a, b, c, d = (
        scan_chain(head[0], Scanner(4), 15, s, r) for s, r in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert (a.noisy == b.noisy).all() and (a.clean == c.clean).all()
    assert (a.noisy != c.noisy).mean() > 0.99 and (a.clean != d.clean).mean() > 0.99
    single = scan_chain(head[0].with_data(head[0].data), Scanner(1, phase=0.0), 15)
    assert np.abs(single.clean - head[0].data).max() < 0.01 * head[0].data.max()


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(n_coils=0), 'n_coils 0'),
        (dict(n_coils=2.5), 'whole'),
        (dict(accel=9), 'accel 9'),
        (dict(accel=4, n_coils=2), 'as many coils'),
        (dict(accel=2, combine='rss'), 'unfolds'),
        (dict(partial=0.5), 'more than 0.5'),
        (dict(acquired=0.1), 'acquired'),
        (dict(correlation=1.0), 'correlation'),
        (dict(phase=float('nan')), 'phase'),
        (dict(combine='adaptive'), 'choose'),
    ],
)
def test_settings_that_are_refused(wrong, said):
    with pytest.raises(InputError, match=said) as e:
        Scanner(**wrong)
    assert '\n' not in str(e.value)


def test_scans_that_are_refused(head):
    series = head[0]
    for call, said in (
        (lambda: scan_chain(series, Scanner(5, accel=5)), 'does not divide'),
        (lambda: scan_chain(series, snr=0), 'snr'),
        (lambda: scan_chain(series, run=-1), 'run'),
        (lambda: scan_chain(series.with_data(0 * series.data)), 'empty'),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_a_folder_is_written_whole_or_not_at_all(head, folder, tmp_path, monkeypatch):
    runs = [scan_chain(head[0], Scanner(2), 15)]
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/mine.txt').write_text('x')
    with pytest.raises(InputError, match='something lies there'):
        write_chain(tmp_path / 'full', runs)
    other = scan_chain(head[0], Scanner(2), 15, seed=1)
    with pytest.raises(InputError, match='one truth'):
        write_chain(tmp_path / 'two', [*runs, other])

    def full(*_):
        raise OSError('no space left')

    with monkeypatch.context() as m:
        m.setattr(module, '_write_truth', full)
        with pytest.raises(OSError):
            write_chain(tmp_path / 'new', runs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['full']
    one = write_chain(tmp_path / 'new', runs)
    assert (one / 'sub-01/dwi/sub-01_part-mag_dwi.nii.gz').is_file()
    (one / 'derivatives/truth/sub-01/dwi/sub-01_dwi.bval').unlink()
    with pytest.raises(InputError, match='sub-01_dwi.bval; give a folder'):
        read_chain(one)
    with pytest.raises(InputError, match='give a folder'):
        read_chain(tmp_path / 'full')
