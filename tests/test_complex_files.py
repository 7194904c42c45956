"Complex files in the commands that measure: noise, evaluate, report; noise scans of complex numbers"

import numpy as np
import pytest

from mri_diffusion.app.jobs import evaluate_scan, scan_noise
from mri_diffusion.app.report_notebook import load_result
from mri_diffusion.core import InputError
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.complex import ComplexScan
from mri_diffusion.scans.nifti import Scan

SIGMA = 0.05


def noise(shape, sigma, seed):
    r = np.random.default_rng(seed)
    return sigma * (r.standard_normal(shape) + 1j * r.standard_normal(shape))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A head with phase, complex and as a BIDS pair, and scans of noise alone, complex"
    d, t1 = tmp_path_factory.mktemp('complex'), load_t1(downsample=5)
    x, y, z = np.indices(t1.shape)
    turn = np.exp(1j * (0.1 * x - 0.07 * y + 0.002 * y * z))
    noisy = ComplexScan.from_array(t1.data * turn + noise(t1.shape, SIGMA, 0), t1.affine)
    noisy.save(d / 'noisy.nii.gz')
    ComplexScan.from_array(t1.data * turn, t1.affine).save(d / 'clean.nii.gz')
    noisy.magnitude.save(d / 'a_part-mag_T1w.nii.gz')
    t1.with_data(np.angle(noisy.data)).save(d / 'a_part-phase_T1w.nii.gz')
    for name, sigma in (('noRF', SIGMA), ('other', 20 * SIGMA)):
        alone = noise((*t1.shape, 2), sigma, 1)
        ComplexScan.from_array(alone, t1.affine).save(d / f'{name}.nii.gz')
    return d


def test_noise_of_complex_data_is_that_of_its_imaginary_channel(folder, cli):
    "Of a complex file, of a magnitude whose phase is named, and of a BIDS pair"
    mag, phase = (folder / f'a_part-{p}_T1w.nii.gz' for p in ('mag', 'phase'))
    asked = dict(whole=(folder / 'noisy.nii.gz',), named=(mag, '--phase', phase), pair=(mag,))
    for words in asked.values():
        done = cli('noise', *words)
        assert done.code == 0, done.err
        said = dict(line.split(maxsplit=1) for line in done.out.splitlines())
        assert said['estimator'] == 'imaginary channel' and said['distribution'] == 'gaussian'
        assert float(said['sigma'].split()[0]) == pytest.approx(SIGMA, rel=0.03)
    done = cli('noise', mag, '--phase', 'none')
    assert 'imaginary' not in done.out and 'rician' in done.out
    found = scan_noise(folder / 'noisy.nii.gz', how='background')
    assert found['how'] == 'background' and found['distribution'] == 'gaussian'
    done = cli('noise', folder / 'noisy.nii.gz', '--coils', 2)
    assert done.code == 2 and 'two Gaussian channels' in done.err
    done = cli('noise', folder / 'noisy.nii.gz', '--phase', phase)
    assert done.code == 2 and 'holds its phase' in done.err


def test_a_noise_scan_may_be_complex(folder, tmp_path, cli):
    "Both of its channels count, for a magnitude and for complex data"
    for name in ('noisy', 'a_part-mag_T1w'):
        found = scan_noise(folder / f'{name}.nii.gz', noise_scan=folder / 'noRF.nii.gz')
        assert found['how'] == 'noise_scan' and found['sigma'] == pytest.approx(SIGMA, rel=0.03)
    out = tmp_path / 'out.nii.gz'
    told = '--noise-scan', folder / 'noRF.nii.gz', '--noise-map', tmp_path / 'sigma.nii.gz'
    done = cli(
        *('denoise', folder / 'noisy.nii.gz', out, '--method', 'identity', '--part', 'real', *told)
    )
    assert done.code == 0 and 'same gain' not in done.err, done.err
    assert np.median(Scan.load(tmp_path / 'sigma.nii.gz').data) == pytest.approx(SIGMA, rel=0.03)


@pytest.mark.parametrize('scan', ['noisy', 'a_part-mag_T1w'])
def test_denoise_doubts_a_noise_scan_of_another_level(folder, tmp_path, cli, scan):
    "As `noise` does: a noise scan twenty times as high was made otherwise"
    words = folder / f'{scan}.nii.gz', tmp_path / 'out.nii.gz', '--method', 'identity'
    done = cli('denoise', *words, '--phase', 'none', '--noise-scan', folder / 'other.nii.gz')
    assert done.code == 0 and 'same gain and reconstruction' in done.err, done.err


def test_scores_of_complex_files_are_those_of_their_magnitudes(folder, tmp_path, cli):
    "A table of complex files is that of the magnitudes, and says so"
    for name in ('noisy', 'clean'):
        ComplexScan.load(folder / f'{name}.nii.gz').magnitude.save(tmp_path / f'{name}.nii.gz')
    of = lambda d: evaluate_scan(d / 'noisy.nii.gz', d / 'clean.nii.gz', noisy=d / 'noisy.nii.gz')
    whole, sizes = of(folder), of(tmp_path)
    assert len(whole.pop('magnitude_of')) == 3 and sizes.pop('magnitude_of') == []
    for k in ('psnr', 'ssim', 'nmse'):
        assert whole[k] == pytest.approx(sizes[k], rel=1e-4)
    done = cli('evaluate', folder / 'noisy.nii.gz', '--clean', folder / 'clean.nii.gz')
    assert done.code == 0 and done.out.count('its magnitude is measured') == 2
    with pytest.raises(InputError, match='same grid'):
        evaluate_scan(folder / 'noisy.nii.gz', noisy=folder / 'noRF.nii.gz')


def test_a_report_is_made_later_of_complex_files(folder):
    "The pair that `denoise --part complex` leaves: a complex scan and a complex result"
    result = load_result(folder / 'noisy.nii.gz', folder / 'clean.nii.gz', sigma=SIGMA)
    noisy = ComplexScan.load(folder / 'noisy.nii.gz').magnitude
    assert np.allclose(result.noisy.data, noisy.data) and result.noisy.kind == 'magnitude'
    assert isinstance(result.denoised, Scan) and (result.denoised.data >= 0).all()
