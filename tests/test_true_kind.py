"What kind of numbers a scan holds, its axes, lengths and scale: each read for what it is"

import json
import re

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mri_diffusion import Denoiser
from mri_diffusion.core import InputError
from mri_diffusion.judge.audit import audit
from mri_diffusion.methods.classical import mppca, nlmeans, patch2self
from mri_diffusion.methods.r2r import decompose_series
from mri_diffusion.methods.slicewise import noise_kind
from mri_diffusion.noise.components import from_states
from mri_diffusion.noise.describe import describe_noise
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.scans.kind import is_signed, kind_of, phase_reason
from mri_diffusion.scans.nifti import Scan, auto_mask, load_like, load_mask

SHAPE, SIGMA = (26, 28, 14), 50.0
x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
INSIDE = (x / 0.8) ** 2 + (y / 0.85) ** 2 + z**2 < 1
HEAD = INSIDE * (600.0 + 400 * (np.sin(7 * x) * np.sin(6 * y) > 0))
FLUID = (np.hypot(x, y) < 0.4) & INSIDE
BVALS = np.r_[np.zeros(3), np.full(15, 4000.0)]


def series(seed=0):
    "Truth, real and imaginary channel of a series whose fluid is dark at high b"
    rng = np.random.default_rng(seed)
    decay = np.exp(-BVALS * 0.3e-3) * (1 + 0.15 * np.sin(np.arange(18)))
    truth = HEAD[..., None] * np.where(BVALS > 0, decay, 1)
    truth[FLUID] = 900 * np.exp(-BVALS * 3e-3)
    return truth, *(truth * (k == 0) + SIGMA * rng.normal(size=(*SHAPE, 18)) for k in (0, 1))


TRUTH, REAL, IMAG = series()
MAGNITUDE = np.hypot(REAL, IMAG)


def moved(image):
    "Shifted by a part of a voxel with a cubic spline"
    if image.ndim == 4:
        return np.stack([moved(v) for v in np.moveaxis(image, -1, 0)], -1)
    return ndimage.shift(image, (0.4, 0.3, 0), order=3)


RIPPLED = moved(np.where(INSIDE[..., None], MAGNITUDE, 0))


def write(path, data, size=2.0, units=('mm', 'sec'), bvals=None, record=None):
    "A NIfTI with its companions"
    image = nib.Nifti1Image(np.float32(data), np.diag([size] * 3 + [1]))
    image.header.set_xyzt_units(*units)
    nib.save(image, path)
    stem = str(path).removesuffix('.nii.gz')
    if bvals is not None:
        np.savetxt(stem + '.bval', np.atleast_2d(bvals), '%g')
    if record is not None:
        with open(stem + '.json', 'w') as f:
            f.write(record if isinstance(record, str) else json.dumps(record))
    return path


@pytest.mark.parametrize('order', [2, 3, 4, 5])
@pytest.mark.parametrize('blanked', [False, True])
def test_ripples_of_any_spline_are_not_noise(order, blanked):
    image = np.where(INSIDE, MAGNITUDE[..., 0], 0) if blanked else MAGNITUDE[..., 0]
    for shift in [(0.4, 0.3, 0), (0.5, 0.5, 0.5), (0, 0.1, 0)]:
        rippled = ndimage.shift(image, shift, order=order)
        assert not is_signed(rippled), shift
    assert is_signed(ndimage.shift(REAL[..., 0], (0.4, 0.3, 0), order=order))


def test_ripples_of_a_fourier_shift_are_not_noise():
    for image in (MAGNITUDE[..., 0], np.where(INSIDE, MAGNITUDE[..., 0], 0)):
        rippled = np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(image), (0.5, 0.3, 0))).real
        assert rippled.min() < 0 and not is_signed(rippled)


def test_noise_about_zero_is_signed_with_and_without_a_background():
    assert is_signed(REAL) and is_signed(np.where(INSIDE[..., None], REAL, 0))
    assert is_signed(REAL[:, :, 7:8]) and not is_signed(MAGNITUDE)
    assert is_signed(MAGNITUDE[..., 1] - MAGNITUDE[..., 2])  # A difference of two repeats
    one = MAGNITUDE.copy()
    one[0, 0, 0, 0] = -0.5
    assert kind_of(one)[0] == 'rippled magnitude' and kind_of(MAGNITUDE) == ('magnitude', '')


def test_one_negative_voxel_changes_nothing_of_the_bias_step():
    one = MAGNITUDE.copy()
    one[0, 0, 0, 0] = -0.5
    out = []
    for data in (MAGNITUDE, one):
        ready = decompose_series(data, BVALS, INSIDE, SIGMA)
        assert ready['magnitude']
        out.append(from_states(ready['states'], ready['sigma'], 1, ready['magnitude']))
    assert abs(out[0] - out[1])[1:].max() == 0
    assert noise_kind(one, dict(noise='auto')) == 'magnitude'


def test_a_rippled_magnitude_shows_its_noise_and_not_that_of_its_ripples():
    true = np.std((RIPPLED - moved(TRUTH))[ndimage.binary_erosion(INSIDE, iterations=2)])
    found = describe_noise(RIPPLED.astype(np.float32), bvals=BVALS)
    assert found['distribution'] == 'rician' and 0.8 < found['sigma'] / true < 1.25


@pytest.mark.parametrize('how', ['background', 'repeats', 'wavelet', 'mppca'])
def test_signed_data_have_gaussian_statistics(how):
    found = estimate_sigma(REAL.astype(np.float32), how, INSIDE, bvals=BVALS)
    assert found.distribution == 'gaussian' and 0.85 < found.number / SIGMA < 1.15
    blank = np.where(INSIDE[..., None], REAL, 0)
    assert estimate_sigma(blank, 'repeats', INSIDE, bvals=BVALS).distribution == 'gaussian'


def test_the_noise_of_a_real_channel_is_found():
    found = describe_noise(REAL.astype(np.float32), bvals=BVALS)
    assert found['distribution'] == 'gaussian' and abs(found['sigma'] / SIGMA - 1) < 0.05
    scan = SIGMA * np.random.default_rng(1).normal(size=SHAPE)  # Without excitation
    assert abs(estimate_sigma(scan, 'noise_scan').number / SIGMA - 1) < 0.05


def fluid_at_high_b(denoised):
    "Mean over the inner fluid at b = 4000, where the truth is 0.006"
    return float(denoised[ndimage.binary_erosion(FLUID)][:, BVALS > 0].mean())


@pytest.mark.parametrize('method', [nlmeans, mppca, patch2self])
def test_weak_signal_of_a_real_channel_is_kept(method):
    out = method(REAL.astype(np.float32), sigma=SIGMA, bvals=BVALS)
    rmse = np.sqrt(((out - TRUTH)[INSIDE] ** 2).mean())
    assert rmse < 0.8 * SIGMA and abs(fluid_at_high_b(out)) < 6
    assert (out < 0).mean() > 0.1


@pytest.mark.parametrize('name', ['r2r', 'noise2score', 'corruption2self', 'diffdenoise', 'n2n'])
def test_no_network_cuts_a_real_channel_off_at_zero(name):
    scan = Scan.from_array(REAL[:, :, 4:9].astype(np.float32), bvals=BVALS)
    result = Denoiser(name, 'tiny', device='cpu', quiet=True).denoise(scan)
    assert scan.kind == 'signed' and (result.denoised.data < 0).mean() > 0.1


def test_ddm2_refuses_signed_data_by_name():
    scan = Scan.from_array(REAL.astype(np.float32), bvals=BVALS, bvecs=np.eye(3)[np.arange(18) % 3])
    with pytest.raises(InputError, match='signed'):
        Denoiser('ddm2', 'tiny', device='cpu', quiet=True).denoise(scan)


def test_the_mask_and_the_audit_of_signed_data():
    real = REAL[..., 0]
    for image in (real, -real):
        mask = auto_mask(image)
        assert 2 * (mask & INSIDE).sum() / (mask.sum() + INSIDE.sum()) > 0.9
    fair = audit(REAL, TRUTH, SIGMA, INSIDE)
    assert fair.verdict == 'no fault found' and 'aussian' in ' '.join(fair.notes)
    assert 'ician' in ' '.join(audit(MAGNITUDE, TRUTH, SIGMA, INSIDE).notes)


PHASE = np.angle(REAL[..., 0] * np.exp(7j * x) + 1j * IMAG[..., 0])


@pytest.mark.parametrize(
    'name, data, record',
    [
        ('phase', PHASE, None),
        ('any', PHASE * 1000, None),
        ('any', PHASE / np.pi, None),
        ('any', np.round((PHASE / np.pi + 1) * 2047) * 2 - 4096, None),
        ('gre_e2_ph', (PHASE + np.pi) * 4095 / (2 * np.pi), None),
        ('sub-01_part-phase_dwi', abs(PHASE), None),
        ('sub-01_phasediff', PHASE * INSIDE / 8, None),
        ('any', 2 * x + 3, dict(Units='rad')),
        ('any', 2 * x + 3, dict(ImageType=['ORIGINAL', 'PRIMARY', 'P', 'ND'])),
        ('any', 2 * x + 3, dict(ComplexImageComponent='PHASE')),
    ],
)
def test_phase_is_refused_by_name(tmp_path, name, data, record):
    path = write(tmp_path / f'{name}.nii.gz', data, record=record)
    with pytest.raises(InputError, match='a phase image .*; give the magnitude image') as said:
        Scan.load(path)
    assert '\n' not in str(said.value)


def test_what_only_sounds_like_phase_is_read(tmp_path):
    assert Scan.load(write(tmp_path / 'cine_phase.nii.gz', MAGNITUDE[..., 0])).kind == 'magnitude'
    named = write(tmp_path / 'phase-corrected_real.nii.gz', REAL[..., 0])
    assert Scan.load(named).kind == 'signed'
    magnitude = dict(ImageType=['ORIGINAL', 'PRIMARY', 'M', 'ND'], Units='arbitrary')
    read = Scan.load(write(tmp_path / 'm.nii.gz', MAGNITUDE[..., 0], record=magnitude))
    assert read.kind == 'magnitude' and read.sidecar == magnitude and not read.notes
    assert phase_reason(np.clip(REAL[..., 0], -60, 60)) is None


def test_the_kind_is_said_and_recorded(tmp_path):
    path = write(tmp_path / 'real.nii.gz', REAL, bvals=BVALS)
    scan = Scan.load(path)
    assert scan.kind == 'signed' and ['signed' in n for n in scan.notes] == [True]
    out = Denoiser('blur').denoise(scan).save(tmp_path / 'out.nii.gz')
    assert json.loads((tmp_path / 'out.json').read_text())['DataKind'] == 'signed'
    positive = Scan.load(out).with_data(abs(REAL))
    positive.save(tmp_path / 'denoised.nii.gz', sidecar=dict(DataKind='signed'))
    assert Scan.load(tmp_path / 'denoised.nii.gz').kind == 'signed'


@pytest.mark.parametrize('text', ['{"a": ', '[1, 2]', 'null', '[' * 3000, '\xff'])
def test_a_broken_sidecar_is_left_aside_with_a_note(tmp_path, text):
    scan = Scan.load(write(tmp_path / 'a.nii.gz', MAGNITUDE[..., 0], record=text))
    assert scan.sidecar == {} and len(scan.notes) == 1 and 'a.json' in scan.notes[0]


def test_a_fourth_axis_of_one_is_no_axis(tmp_path):
    volume = MAGNITUDE[..., 0]
    thick, thin = write(tmp_path / 'a.nii.gz', volume[..., None]), tmp_path / 'b.nii.gz'
    write(thin, volume)
    scan = Scan.load(thick)
    assert scan.shape == SHAPE and len(scan.notes) == 1
    for path in (thick, thin):
        assert load_like(path, scan).shape == load_like(path, Scan.load(thin)).shape == SHAPE
        assert load_mask(path, scan).shape == SHAPE
    levels = [estimate_sigma(Scan.load(p).data).number for p in (thick, thin)]
    assert levels[0] == levels[1]
    Denoiser('blur').denoise(scan).save(tmp_path / 'out.nii.gz')
    assert nib.load(tmp_path / 'out.nii.gz').shape == (*SHAPE, 1)
    assert Scan.from_array(volume[..., None]).shape == SHAPE


def test_other_axes_of_one(tmp_path):
    itk = write(tmp_path / 'itk.nii.gz', MAGNITUDE[:, :, :, None, :4])
    assert Scan.load(itk).shape == (*SHAPE, 4) and len(Scan.load(itk).notes) == 1
    Scan.load(itk).save(tmp_path / 'back.nii.gz')
    assert nib.load(tmp_path / 'back.nii.gz').shape == (*SHAPE, 1, 4)
    flat = Scan.load(write(tmp_path / 'flat.nii.gz', MAGNITUDE[:, :, 7, 0]))
    assert flat.shape == (26, 28, 1) and auto_mask(flat.data).any()
    flat.save(tmp_path / 'flat2.nii.gz')
    assert nib.load(tmp_path / 'flat2.nii.gz').shape == (26, 28)
    echoes = write(tmp_path / 'echoes.nii.gz', MAGNITUDE.reshape(*SHAPE, 6, 3))
    with pytest.raises(InputError, match='5-D'):
        Scan.load(echoes)


def test_a_single_b0_keeps_its_table(tmp_path):
    path = write(tmp_path / 'b0.nii.gz', MAGNITUDE[..., 0], bvals=[0])
    (tmp_path / 'b0.bvec').write_text('0\n0\n0\n')
    scan = Scan.load(path)
    assert scan.bvals == [0] and scan.bvecs.shape == (1, 3) and scan.b0.shape == SHAPE
    assert estimate_sigma(scan.data, bvals=scan.bvals).number > 0
    Denoiser('nlmeans').denoise(scan, sigma=SIGMA).save(tmp_path / 'out.nii.gz')
    assert (tmp_path / 'out.bval').read_text().split() == ['0']
    assert len((tmp_path / 'out.bvec').read_text().split()) == 3
    other = Scan.load(write(tmp_path / 'mean.nii.gz', MAGNITUDE[..., 0], bvals=BVALS))
    assert other.bvals is None and 'mean.bval' in other.notes[0]


@pytest.mark.parametrize('unit, per_mm', [('mm', 1), ('micron', 1e3), ('meter', 1e-3)])
def test_lengths_are_in_mm_and_stay_in_the_unit_of_the_file(tmp_path, unit, per_mm):
    units = (unit, 'msec')
    scan = Scan.load(write(tmp_path / 'a.nii.gz', MAGNITUDE[..., :2], 0.08 * per_mm, units))
    assert np.allclose(scan.voxel_size, 0.08, rtol=1e-5)
    scan.save(tmp_path / 'b.nii.gz')
    a, b = (nib.load(tmp_path / f'{n}.nii.gz') for n in 'ab')
    assert np.array_equal(a.affine, b.affine) and b.header.get_xyzt_units() == units
    assert np.array_equal(a.header['pixdim'], b.header['pixdim'])
    mm = Scan.load(write(tmp_path / 'mm.nii.gz', MAGNITUDE[..., 0], 0.08))
    assert load_like(tmp_path / 'a.nii.gz', mm.with_data(scan.data)).shape == scan.shape


@pytest.mark.parametrize('scale', [1e-12, 1e-9, 1e-6, 1e6])
def test_the_scale_of_the_data_says_nothing(scale):
    one, other = MAGNITUDE.astype(np.float32), (MAGNITUDE * scale).astype(np.float32)
    found = [describe_noise(d, bvals=BVALS) for d in (one, other)]
    levels = [f.pop('sigma') for f in found]
    assert abs(levels[1] / levels[0] / scale - 1) < 1e-3
    words = [[re.sub(r'[\d.]+(e[-+]\d+)?', '#', n) for n in f['notes']] for f in found]
    assert words[0] == words[1] and not found[1]['warnings']
    ratio = patch2self(other, bvals=BVALS) / patch2self(one, bvals=BVALS).clip(1)
    assert abs(np.median(ratio) / scale - 1) < 1e-3
    soft = [nlmeans(d[..., 0], sigma=s) for d, s in zip((one, other), levels)]
    assert np.allclose(soft[1] / scale, soft[0], atol=1e-2)
    assert is_signed(REAL * scale) and not is_signed(RIPPLED * scale)
