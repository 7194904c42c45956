"DICOM folders as scanners export them: read for what they are, or refused by name"

import gzip
import io
import shutil
import subprocess
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import (
    ENHANCED,
    KEYS,
    OBLIQUE,
    RAW,
    REPORT,
    SOFTCOPY,
    dicom,
    enhanced,
    head,
    plane,
    save,
    short,
    siemens,
    slices,
    uih,
)

from mri_diffusion.core import InputError, read_json
from mri_diffusion.scans.dicom import read_images, record_of, to_fsl
from mri_diffusion.scans.dicom_frames import frames_of, read_header
from mri_diffusion.scans.nifti import Scan

FIRST = np.array([-20.0, 15, 33])  # mm, voxel (0, 0) of slice 0
BVALS = np.array([0, 1000, 1000, 500, 1000])
G = np.random.default_rng(1).normal(size=(5, 3))
G /= np.linalg.norm(G, axis=1, keepdims=True)
VOLUMES = np.stack([head(seed=k) for k in range(5)], -1)  # (X, Y, Z, V), rows downwards
STEP = 3


def refused(path):
    with pytest.raises(InputError) as e:
        read_images(path)
    assert '\n' not in str(e.value) and ';' in str(e.value)
    return str(e.value)


def check(path, volumes, turn=OBLIQUE, up=1):
    "Every voxel has the value and the place that it was written with"
    data, affine, facts, notes = read_images(path)
    assert data.shape == volumes.shape
    flipped = data[:, ::-1]
    assert np.array_equal(flipped if up > 0 else flipped[:, :, ::-1], volumes)
    for x, y, z in np.ndindex(2, 3, 2):
        lps = FIRST + 1.5 * x * turn[0] + 2 * y * turn[1] + up * STEP * z * turn[2]
        at = [x, volumes.shape[1] - 1 - y, z if up > 0 else volumes.shape[2] - 1 - z, 1]
        assert np.allclose((affine @ at)[:3], lps * [-1, -1, 1], atol=1e-4)
    return affine, facts, notes


def world(bvecs, affine):
    "Directions of FSL's convention along right, anterior, superior"
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return (np.array(bvecs) * [-1 if np.linalg.det(axes) > 0 else 1, 1, 1]) @ axes.T


def check_table(facts, affine):
    assert facts.bvals == tuple(map(float, BVALS))
    assert np.allclose(world(facts.bvecs, affine)[1:], G[1:] * [-1, -1, 1], atol=1e-6)
    assert not np.any(facts.bvecs[0])


def diffusion(z, v):
    told = dict(DiffusionBValue=float(BVALS[v]))
    return told | (dict(DiffusionGradientOrientation=G[v].tolist()) if BVALS[v] else {})


@pytest.mark.parametrize('up', [1, -1])
@pytest.mark.parametrize('turn', [OBLIQUE, np.eye(3), OBLIQUE[[2, 0, 1]]], ids=['a', 'b', 'c'])
def test_a_siemens_mosaic_is_unfolded(tmp_path, up, turn):
    for k in range(5):
        g = G[k] if BVALS[k] else None
        ds = siemens(VOLUMES[..., k], FIRST, STEP, up, k + 1, BVALS[k], g, turn)
        save(ds, tmp_path / 'in' / f'{9 - k}.dcm')
    affine, facts, notes = check(tmp_path / 'in', VOLUMES, turn, up)
    check_table(facts, affine)
    assert '5 volumes of 6 slices' in notes[0]
    for f in sorted((tmp_path / 'in').iterdir())[:1]:  # NiBabel reads it alike
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            from nibabel.nicom import dicomwrappers

            theirs = dicomwrappers.wrapper_from_file(f)
        assert theirs.is_mosaic and theirs.n_mosaic == 6
        flip = np.diag([-1.0, -1, 1, 1]) @ theirs.affine
        ours = read_images(f)[0]
        back = np.linalg.inv(affine) @ flip  # Their index -> ours
        i, j, k = np.meshgrid(*map(np.arange, theirs.get_data().shape), indexing='ij')
        at = np.rint(np.stack([i, j, k], -1) @ back[:3, :3].T + back[:3, 3]).astype(int)
        assert np.array_equal(ours[tuple(np.moveaxis(at, -1, 0))], theirs.get_data())


def test_real_siemens_mosaics_that_nibabel_carries(tmp_path):
    files = Path(nib.__file__).parent / 'nicom/tests/data'
    names = ['siemens_dwi_0.dcm.gz', 'siemens_dwi_1000.dcm.gz']
    if not all((files / n).is_file() for n in names):
        pytest.skip('NiBabel came without its test data')
    (tmp_path / 'in').mkdir()
    for n in names:
        raw = gzip.decompress((files / n).read_bytes())
        (tmp_path / 'in' / n.removesuffix('.gz')).write_bytes(raw)
    data, affine, facts, _ = read_images(tmp_path / 'in')
    assert data.shape == (128, 128, 48, 2) and facts.bvals == (0, 1000)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    assert np.allclose(zooms, [1.796875, 1.796875, 3], atol=1e-5)
    assert np.allclose(affine[:3, 3], [115, -93.171, -79.905], atol=1e-3)  # As dcm2niix
    assert np.allclose(facts.bvecs[1], [0.999975, -0.00507649, -0.00502361], atol=1e-6)


def test_uih_tiles_are_slices(tmp_path):
    for k in range(5):
        save(uih(VOLUMES[..., k], FIRST, STEP, k + 1, BVALS[k]), tmp_path / 'in' / f'{k}.dcm')
    _, facts, notes = check(tmp_path / 'in', VOLUMES)
    assert facts.bvals == tuple(map(float, BVALS)) and facts.bvecs == ()
    assert any('dcm2niix for the gradient table' in n for n in notes)


def bare(ds, *tags):
    for t in tags:
        del ds[t]
    return ds


def tiled(**fields):
    "Tiles of a maker nobody knows: 20 of 64 x 64, 1120 mm wide"
    told = dict(ImageType=['ORIGINAL', 'PRIMARY', 'OTHER'], AcquisitionMatrix=[0, 64, 64, 0])
    told |= dict(InstanceNumber=1, ImagePositionPatient=[0, 0, 0])
    return dicom(np.ones((256, 320)), **told | plane(np.eye(3), [3.5, 3.5]) | fields)


TILED = dict(
    uih_without_positions=lambda: uih(VOLUMES[..., 0], FIRST, listed=False),
    siemens_without_normal=lambda: siemens(VOLUMES[..., 0], FIRST, csa_too=False),
    siemens_without_place=lambda: bare(siemens(VOLUMES[..., 0], FIRST), 'ImagePositionPatient'),
    unknown_maker=tiled,
    made_by_canon=lambda: tiled(ImageType=['ORIGINAL', 'PRIMARY', 'M', 'MOSAIC']),
)


@pytest.mark.parametrize('kind', TILED)
def test_tiles_whose_order_is_not_known_are_refused(cli, tmp_path, kind):
    save(TILED[kind](), tmp_path / 'in' / 'a.dcm')
    said = refused(tmp_path / 'in')
    assert 'mosaic' in said and 'dcm2niix' in said
    words = ['denoise', tmp_path / 'in', tmp_path / 'o.nii.gz', '--method', 'blur']
    got = cli(*words)
    assert got.code == 2 and got.err.count('\n') == 1 and not (tmp_path / 'o.nii.gz').exists()


def test_interpolated_pictures_are_not_taken_for_tiles(tmp_path):
    for k in range(3):
        ds = tiled(
            ImagePositionPatient=[0, 0, 3 * k], InstanceNumber=k + 1, PixelSpacing=[0.8, 0.8]
        )
        save(ds, tmp_path / 'in' / f'{k}')
    assert read_images(tmp_path / 'in')[0].shape == (320, 256, 3)


@pytest.mark.parametrize('by_slice', [True, False])
def test_a_diffusion_series_in_single_slices(cli, tmp_path, by_slice):
    slices(tmp_path / 'in', VOLUMES, FIRST, STEP, by_slice=by_slice, more=diffusion)
    affine, facts, notes = check(tmp_path / 'in', VOLUMES)
    check_table(facts, affine)
    assert notes == ['in: 5 volumes of 6 slices, told apart by b-value and direction']
    got = cli('denoise', tmp_path / 'in', tmp_path / 'o.nii.gz', '--method', 'identity')
    assert got.code == 0 and 'told apart' in got.err, got.err
    out = Scan.load(tmp_path / 'o.nii.gz')
    assert out.bvals.tolist() == BVALS.tolist() and np.array_equal(out.data[:, ::-1], VOLUMES)
    assert np.allclose(out.bvecs, facts.bvecs, atol=1e-6)
    assert 'told apart' in ' '.join(read_json(tmp_path / 'o.json')['Notes'])


def test_seventeen_volumes_of_32_slices_are_not_544_slices(tmp_path):
    volumes = np.arange(17 * 32).reshape(1, 1, 32, 17) + np.arange(9).reshape(3, 3, 1, 1)
    b = lambda z, v: dict(Manufacturer='Philips Medical Systems')
    slices(tmp_path / 'in', volumes, FIRST, STEP, by_slice=True, more=b)
    assert read_images(tmp_path / 'in')[0].shape == (3, 3, 32, 17)


def test_volumes_are_sorted_by_what_tells_them_apart(tmp_path):
    "Numbers that restart in every volume, and numbers that run against the volumes"
    more = lambda z, v: dict(InstanceNumber=z + 1, TemporalPositionIdentifier=v + 1)
    slices(tmp_path / 'a', VOLUMES, FIRST, STEP, more=more)
    for f in (tmp_path / 'a').iterdir():
        ds = pydicom.dcmread(f)
        f.rename(f.with_name(f'{ds.InstanceNumber}_{ds.TemporalPositionIdentifier}'))
    assert 'Temporal' in check(tmp_path / 'a', VOLUMES)[2][0]
    mixed = lambda z, v: dict(InstanceNumber=1 + (v + z) % 5 + 5 * z, AcquisitionNumber=v + 1)
    slices(tmp_path / 'b', VOLUMES, FIRST, STEP, more=mixed)
    assert 'AcquisitionNumber' in check(tmp_path / 'b', VOLUMES)[2][0]
    weighted = lambda z, v: dict(InstanceNumber=1 + (v + z) % 5 + 5 * z, DiffusionBValue=100.0 * v)
    slices(tmp_path / 'c', VOLUMES, FIRST, STEP, more=weighted)
    assert check(tmp_path / 'c', VOLUMES)[1].bvals == (0, 100, 200, 300, 400)


@pytest.mark.parametrize('by_slice', [True, False])
def test_an_enhanced_file_is_a_series(tmp_path, by_slice):
    ds = enhanced(2 * VOLUMES, FIRST, STEP, bvals=BVALS, g=G, by_slice=by_slice)
    save(ds, tmp_path / 'in' / 'e.dcm')
    affine, facts, notes = check(tmp_path / 'in', VOLUMES)  # The slope is 0.5
    check_table(facts, affine)
    assert '5 volumes of 6 slices' in notes[0] and len(notes) == 1
    one = check(tmp_path / 'in' / 'e.dcm', VOLUMES)[1]
    assert (one.bvals, one.bvecs) == (facts.bvals, facts.bvecs)


def test_an_enhanced_file_without_positions(tmp_path):
    ds = enhanced(VOLUMES, FIRST, STEP, bvals=BVALS, g=G, places=False)
    save(ds, tmp_path / 'a.dcm')
    assert 'no positions' in refused(tmp_path / 'a.dcm')
    del ds.PerFrameFunctionalGroupsSequence
    save(ds, tmp_path / 'a.dcm')
    assert '30 frames' in refused(tmp_path / 'a.dcm')


def test_a_folder_as_exported(cli, tmp_path):
    slices(tmp_path / 'in', VOLUMES[..., :1], FIRST, STEP)
    kinds = dict(ps=SOFTCOPY, raw=RAW, sr=REPORT, ko=KEYS, own='1.3.46.670589.11.0.0.12.2')
    for name, kind in kinds.items():
        save(dicom(None, kind, SeriesInstanceUID='9.9'), tmp_path / 'in' / name)
    shot = dicom(np.ones((40, 50)), '1.2.840.10008.5.1.4.1.1.7', SeriesInstanceUID='9.8')
    save(shot, tmp_path / 'in' / 'shot.dcm')
    (tmp_path / 'in' / 'deeper').mkdir()
    (tmp_path / 'in' / 'DICOMDIR').write_bytes(b'\0' * 128 + b'DICM')
    first = next((tmp_path / 'in').glob('IM*'))
    shutil.copy(first, tmp_path / 'in' / 'copy_of_a_file')
    notes = check(tmp_path / 'in', VOLUMES[..., 0])[2]
    assert len(notes) == 1
    for n in ('presentation state', 'raw-data object', 'report', 'key object', 'other object'):
        assert f'1 {n},' in notes[0]
    assert all(w in notes[0] for w in ('1 screenshot,', '1 folder, 1 other file'))
    got = cli('noise', tmp_path / 'in')
    assert got.code == 0, got.err
    save(dicom(None, REPORT), tmp_path / 'no' / 'sr')
    assert 'no image among its DICOM files (report: 1)' in refused(tmp_path / 'no')
    assert 'in: ' in refused(tmp_path) and 'give one of the folders' in refused(tmp_path)


PHASE, MAGNITUDE = (['ORIGINAL', 'PRIMARY', f'{c}_FFE', c, 'FFE'] for c in 'PM')
MIXED = dict(
    components=(
        lambda z, v: dict(ImageType=[MAGNITUDE, PHASE][v]),
        'magnitude: 6, as IM',
        'phase: 6',
    ),
    public=(
        lambda z, v: dict(ComplexImageComponent=['MAGNITUDE', 'PHASE'][v]),
        'magnitude: 6, as IM',
        'phase: 6',
    ),
    echoes=(lambda z, v: dict(EchoTime=[4.92, 7.38][v]), 'EchoTime 4.92: 6', 'EchoTime 7.38: 6'),
    inversions=(lambda z, v: dict(InversionTime=[700, 2500][v]), 'InversionTime 700: 6', '2500'),
    angles=(lambda z, v: dict(FlipAngle=[4, 5][v]), 'FlipAngle 4: 6', 'FlipAngle 5: 6'),
    dixon=(
        lambda z, v: dict(ImageType=['DERIVED', 'PRIMARY', 'OTHER', ['WATER', 'FAT'][v]]),
        'WATER: 6',
        'FAT: 6',
    ),
    series=(
        lambda z, v: dict(SeriesInstanceUID=f'1.{v}', SeriesDescription='ab'[v]),
        'a: 6',
        'b: 6',
    ),
    velocity=(
        lambda z, v: dict(ImageType=['ORIGINAL', 'PRIMARY', 'VELOCITY MAP', 'P', 'PCA']),
        'phase image',
        'give the magnitude',
    ),
)


@pytest.mark.parametrize('kind', MIXED)
def test_contrasts_are_never_stacked(cli, tmp_path, kind):
    more, *words = MIXED[kind]
    slices(tmp_path / 'in', VOLUMES[..., :2], FIRST, STEP, more=more)
    said = refused(tmp_path / 'in')
    assert all(w in said for w in words), said
    assert cli('noise', tmp_path / 'in').code == 2


def test_gradient_echo_of_one_kind_and_the_real_channel(tmp_path):
    slices(
        tmp_path / 'm', VOLUMES[..., :1], FIRST, STEP, more=lambda z, v: dict(ImageType=MAGNITUDE)
    )
    assert not check(tmp_path / 'm', VOLUMES[..., 0])[2]
    real = dict(ImageType=['ORIGINAL', 'PRIMARY', 'R'], RescaleIntercept=-300)
    slices(tmp_path / 'r', VOLUMES[..., :1], FIRST, STEP, more=lambda z, v: real)
    data, _, _, notes = read_images(tmp_path / 'r')
    assert data.min() < 0 and 'real channel' in notes[0]


STANDARD = dict(  # Row, column and normal of the pictures of a plane, patient's axes
    axial=np.eye(3),
    sagittal=np.array([[0, 1.0, 0], [0, 0, -1], [-1, 0, 0]]),
    coronal=np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
)
TILT = np.linalg.qr(np.eye(3) + 0.15 * np.random.default_rng(1).normal(size=(3, 3)))[0]
TILT = TILT * np.sign(np.diag(TILT))  # Up to 20 degrees, and no mirror
GE_AXES = {  # Where frequency (x), phase (y) and slice (z) lie along row, column and normal
    ('axial', 'COL'): '-x -y +z',
    ('axial', 'ROW'): '-y +x +z',
    ('sagittal', 'COL'): '+x +y -z',
    ('sagittal', 'ROW'): '+y -x -z',
    ('coronal', 'COL'): '-x +y +z',
    ('coronal', 'ROW'): '+y +x +z',
}


def ge(folder, b=BVALS, g=G, turn=OBLIQUE, phase='COL', **fields):
    "A series with GE's private fields: b-values plus 10^9, gradients (V, 3) as the pulse plays them"
    told = dict(Manufacturer='GE MEDICAL SYSTEMS', PatientPosition='HFS', SeriesNumber=7)
    if phase:
        told['InPlanePhaseEncodingDirection'] = phase
    more = lambda z, v: told | dict(ImageComments=str(v)) | fields
    slices(folder, VOLUMES, FIRST, STEP, turn, more=more)
    for f in folder.iterdir():
        ds = pydicom.dcmread(f)
        v = int(ds.ImageComments)
        own = ds.private_block(0x43, 'GEMS_PARM_01', create=True)
        own.add_new(0x39, 'IS', [int(1e9 + b[v]) if b[v] else 0, 8, 0, 0])
        own = ds.private_block(0x19, 'GEMS_ACQU_01', create=True)
        for element, value in zip((0xBB, 0xBC, 0xBD), g[v] if b[v] else (0, 0, 0)):
            own.add_new(element, 'DS', f'{value:.6f}')
        ds.save_as(f)
    return folder


def ge_lps(name, phase, turn):
    "What the scanner meant (V, 3) along the patient's axes, from the table above"
    words = GE_AXES[name, phase].split()
    along = np.stack([int(f'{w[0]}1') * G[:, 'xyz'.index(w[1])] for w in words], 1)
    return along @ turn


def dcm2niix(folder, out):
    "Affine, b-values and directions along right, anterior, superior as dcm2niix writes them"
    out.mkdir()
    words = [shutil.which('dcm2niix'), '-b', 'n', '-f', 'o', '-o', out, folder]
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
    affine = nib.load(out / 'o.nii').affine
    bvecs = np.loadtxt(out / 'o.bvec').T
    return np.loadtxt(out / 'o.bval'), world(bvecs, affine)


@pytest.mark.parametrize('tilted', [False, True])
@pytest.mark.parametrize(('name', 'phase'), GE_AXES)
def test_ge_directions_of_every_plane(tmp_path, name, phase, tilted):
    turn = STANDARD[name] @ TILT.T if tilted else STANDARD[name]
    ge(tmp_path / 'in', turn=turn, phase=phase)
    affine, facts, notes = check(tmp_path / 'in', VOLUMES, turn)
    lps = ge_lps(name, phase, turn)
    assert facts.bvals == tuple(map(float, BVALS)) and not np.any(facts.bvecs[0])
    ras = world(facts.bvecs, affine)
    assert np.allclose(ras[1:], lps[1:] * [-1, -1, 1], atol=1e-5) and len(notes) == 1
    if shutil.which('dcm2niix'):
        bvals, theirs = dcm2niix(tmp_path / 'in', tmp_path / 'out')
        assert np.array_equal(bvals, BVALS) and np.allclose(theirs, ras, atol=1e-4)


def test_ge_directions_that_are_not_certain_are_left_out(tmp_path):
    far = np.linalg.qr([[1.0, 1, 0], [-1, 1, 0.1], [0, 0, 1]])[0]  # Turned by 45 degrees in plane
    turned = np.stack([-far[:, 0], -far[:, 1], np.cross(far[:, 0], far[:, 1])])
    public = dict(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.6, 0.8, 0.0])
    for name, made in dict(
        plane=lambda d: ge(d, turn=turned),
        phase=lambda d: ge(d, turn=np.eye(3), phase=None),
        two=lambda d: ge(d, turn=np.eye(3), b=BVALS[[1] * 5], **public),
    ).items():
        _, _, facts, notes = read_images(made(tmp_path / name))
        assert len(facts.bvals) == 5 and facts.bvals[1] == 1000 and facts.bvecs == ()
        assert 'axes not certain; convert it by dcm2niix for the gradient table' in notes[-1]


def test_ge_gradients_shorter_than_one_are_another_shell(tmp_path):
    short_by = np.array([1, 0.8, 0.5, 0.985, 1])[:, None]
    ge(tmp_path / 'in', b=[0, 1000, 1000, 500, 1000], g=G * short_by, turn=np.eye(3))
    affine, facts, notes = check(tmp_path / 'in', VOLUMES, np.eye(3))
    assert np.allclose(facts.bvals, [0, 640, 250, 500, 1000], rtol=1e-5)
    assert np.allclose(np.linalg.norm(facts.bvecs, axis=1), [0, 1, 1, 1, 1])
    assert any('2 volumes' in n and 'squared length' in n for n in notes)
    lps = ge_lps('axial', 'COL', np.eye(3))
    assert np.allclose(world(facts.bvecs, affine)[1:], lps[1:] * [-1, -1, 1], atol=1e-5)


@pytest.mark.parametrize('length', [1, 1.4142])
@pytest.mark.parametrize('turn', [OBLIQUE, STANDARD['sagittal']], ids=['oblique', 'sagittal'])
def test_philips_directions_lie_along_the_patient(tmp_path, turn, length):
    told = lambda z, v: dict(Manufacturer='Philips Medical Systems', ImageComments=str(v))
    slices(tmp_path / 'in', VOLUMES, FIRST, STEP, turn, by_slice=True, more=told)
    for f in (tmp_path / 'in').iterdir():
        ds = pydicom.dcmread(f)
        v = int(ds.ImageComments)
        own = ds.private_block(0x2001, 'Philips Imaging DD 001', create=True)
        own.add_new(0x03, 'FL', float(BVALS[v]))
        own.add_new(0x04, 'CS', 'NOPMI'[v] if length == 1 else 'NOPMS'[v])
        own = ds.private_block(0x2005, 'Philips MR Imaging DD 001', create=True)
        for element, value in zip((0xB0, 0xB1, 0xB2), length * G[v] * (BVALS[v] > 0)):
            own.add_new(element, 'FL', float(value))
        ds.save_as(f)
    affine, facts, notes = check(tmp_path / 'in', VOLUMES, turn)
    assert facts.bvals == tuple(map(float, BVALS)) and not np.any(facts.bvecs[0])
    last = 4 if length == 1 else 5  # 'I': isotropic, no direction
    ras = world(facts.bvecs, affine)
    assert np.allclose(ras[1:last], G[1:last] * [-1, -1, 1], atol=1e-5)
    assert (length == 1) == ('[4]' in notes[-1]) and np.any(facts.bvecs[4]) == (length > 1)
    if shutil.which('dcm2niix') and length > 1:
        bvals, theirs = dcm2niix(tmp_path / 'in', tmp_path / 'out')
        assert np.array_equal(bvals, BVALS) and np.allclose(theirs, ras, atol=1e-4)


def test_philips_angles_without_numbers_are_no_direction(tmp_path):
    told = dict(Manufacturer='Philips Medical Systems')
    slices(
        tmp_path / 'in', VOLUMES, FIRST, STEP, more=lambda z, v: told | {'ImageComments': str(v)}
    )
    for f in (tmp_path / 'in').iterdir():
        ds = pydicom.dcmread(f)
        own = ds.private_block(0x2001, 'Philips Imaging DD 001', create=True)
        own.add_new(0x03, 'FL', float(BVALS[int(ds.ImageComments)]))
        own.add_new(0x04, 'CS', 'NPMSO'[int(ds.ImageComments)])
        ds.save_as(f)
    _, facts, notes = check(tmp_path / 'in', VOLUMES)
    assert facts.bvals == tuple(map(float, BVALS)) and not facts.bvecs
    assert 'convert it by dcm2niix for the gradient table' in notes[-1]


MOCO = ['DERIVED', 'PRIMARY', 'M', 'ND', 'MOCO']
STILL = ['ORIGINAL', 'PRIMARY', 'M', 'ND']


def test_a_motion_corrected_series_is_one_series(tmp_path):
    "The first volume is the one onto which the others were moved"
    kind = lambda z, v: dict(ImageType=MOCO if v else STILL, AcquisitionNumber=v + 1)
    slices(tmp_path / 'a', VOLUMES, FIRST, STEP, more=lambda z, v: diffusion(z, v) | kind(z, v))
    affine, facts, notes = check(tmp_path / 'a', VOLUMES)
    check_table(facts, affine)
    assert any('MOCO): 4 of 5 volumes' in n for n in notes)
    same = lambda z, v: dict(ImageType=MOCO, TemporalPositionIdentifier=v + 1)
    slices(tmp_path / 'b', VOLUMES, FIRST, STEP, more=same)
    assert any('MOCO): 5 of 5 volumes' in n for n in check(tmp_path / 'b', VOLUMES)[2])


def test_volumes_and_their_moved_copies_are_not_repeats(tmp_path):
    both = lambda z, v: dict(ImageType=MOCO if v % 2 else STILL, AcquisitionNumber=1 + v // 2)
    slices(tmp_path / 'a', VOLUMES[..., :4], FIRST, STEP, more=both)
    assert '2 types of image' in refused(tmp_path / 'a') and 'MOCO: 12' in refused(tmp_path / 'a')
    alike = lambda z, v: dict(ImageType=MOCO if v % 2 else STILL)
    slices(tmp_path / 'b', VOLUMES[..., :4], FIRST, STEP, more=alike)
    assert '2 types of image' in refused(tmp_path / 'b')


def test_the_sidecar_says_how_the_scan_was_made(cli, tmp_path):
    told = dict(
        RepetitionTime=8000,
        EchoTime=86.5,
        FlipAngle=90,
        InversionTime=0,
        MagneticFieldStrength=3,
        Manufacturer='SIEMENS',
        ManufacturerModelName='Prisma\x07!',
        SoftwareVersions='syngo MR E11',
        PixelBandwidth=1502,
        EchoNumbers=1,
        ScanningSequence=['SE', 'EP'],
        InstitutionName='A Hospital',
        StationName='ROOM1',
        OperatorsName='Smith^Jo',
        PatientBirthDate='19700101',
        ImageType=STILL,
    )
    slices(tmp_path / 'in', VOLUMES, FIRST, STEP, more=lambda z, v: told | diffusion(z, v))
    scan = Scan.load(tmp_path / 'in')
    got = cli('denoise', tmp_path / 'in', tmp_path / 'o.nii.gz', '--method', 'identity')
    assert got.code == 0, got.err
    text = (tmp_path / 'o.json').read_text()
    for record in (scan.sidecar, read_json(tmp_path / 'o.json')):
        assert record['RepetitionTime'] == 8 and record['EchoTime'] == 0.0865
        assert record['FlipAngle'] == 90 and record['MagneticFieldStrength'] == 3
        assert record['ManufacturersModelName'] == 'Prisma!'  # No control characters
        assert record['PixelBandwidth'] == 1502 and record['EchoNumber'] == 1
        assert record['SliceThickness'] == 3 and record['ScanningSequence'] == ['SE', 'EP']
        assert 'InversionTime' not in record and record['ImageType'] == STILL
    assert record['Manufacturer'] == 'SIEMENS' and record['SoftwareVersions'] == 'syngo MR E11'
    assert not any(
        w in text for w in ('Hospital', 'ROOM1', 'Smith', '1970', 'Doe', 'ID-007', '2020')
    )


def test_an_enhanced_file_says_how_it_was_made():
    ds = enhanced(VOLUMES, FIRST, STEP, bvals=BVALS, g=G)
    shared = ds.SharedFunctionalGroupsSequence[0]
    timing, echo = pydicom.Dataset(), pydicom.Dataset()
    timing.RepetitionTime, timing.FlipAngle, echo.EffectiveEchoTime = 4000.0, 80.0, 70.0
    shared.MRTimingAndRelatedParametersSequence = [timing]
    shared.MREchoSequence = [echo]
    raw = io.BytesIO()
    ds.save_as(raw, enforce_file_format=True)
    raw.seek(0)
    frames = frames_of('e.dcm', read_header(raw))
    record = record_of(frames)
    assert (
        record['RepetitionTime'] == 4 and record['EchoTime'] == 0.07 and record['FlipAngle'] == 80
    )
    frames[3].told['EchoTime'] = 71.0
    assert 'EchoTime' not in record_of(frames)  # Not the same in every frame


def test_trace_weighted_volumes_keep_their_place(tmp_path):
    kind = dict(DiffusionDirectionality='ISOTROPIC', DiffusionBValue=1000.0)
    more = lambda z, v: kind if v == 4 else diffusion(z, v)
    slices(tmp_path / 'in', VOLUMES, FIRST, STEP, more=more)
    _, facts, notes = check(tmp_path / 'in', VOLUMES)
    assert not any(facts.bvecs[4]) and any('[4]' in n for n in notes)
    only = lambda z, v: dict(kind, DiffusionBValue=500.0 * v)
    slices(tmp_path / 'trace', VOLUMES[..., :3], FIRST, STEP, more=only)
    _, facts, notes = check(tmp_path / 'trace', VOLUMES[..., :3])
    assert facts.bvals == (0, 500, 1000) and facts.bvecs == ()


def test_what_is_missing_is_refused_not_guessed(tmp_path):
    slices(tmp_path / 'in', VOLUMES, FIRST, STEP, more=diffusion)
    next((tmp_path / 'in').iterdir()).unlink()
    assert '29 slices at 6 positions, 4 to 5 at each' in refused(tmp_path / 'in')
    some = lambda z, v: diffusion(z, v) if v else {}
    slices(tmp_path / 'b', VOLUMES, FIRST, STEP, more=some)
    _, facts, notes = check(tmp_path / 'b', VOLUMES)
    assert not facts.bvals and 'no b-value in 1 of 5 volumes' in notes[-1]
    torn = lambda z, v: dict(DiffusionBValue=float(100 * ((z + v) % 5)), AcquisitionNumber=z)
    slices(tmp_path / 'c', VOLUMES[..., :3], FIRST, STEP, more=torn)
    assert 'nothing tells them apart' in refused(tmp_path / 'c')
    near = lambda z, v: dict(ImagePositionPatient=short(FIRST + (3 * z + 0.16 * v) * OBLIQUE[2]))
    slices(tmp_path / 'd', VOLUMES[..., :2], FIRST, 3, more=near)
    with pytest.raises(InputError, match='nearly coincide|uneven'):
        assert 'uneven' in ' '.join(read_images(tmp_path / 'd')[3])
        raise InputError('uneven')


def test_pixel_spacing_counts_without_positions(tmp_path):
    slices(tmp_path / 'in', VOLUMES[..., :1], FIRST, STEP)
    for f in (tmp_path / 'in').iterdir():
        save(bare(pydicom.dcmread(f), 'ImagePositionPatient'), f)
    data, affine, _, notes = read_images(tmp_path / 'in')
    assert np.array_equal(affine, np.diag([1.5, 2, 3, 1]))
    assert np.array_equal(data[:, ::-1], VOLUMES[..., 0]) and 'not known' in notes[0]
    slices(tmp_path / 'many', VOLUMES, FIRST, STEP, more=diffusion)
    for f in (tmp_path / 'many').iterdir():
        save(bare(pydicom.dcmread(f), 'ImagePositionPatient'), f)
    assert 'no positions' in refused(tmp_path / 'many')


def test_fsl_changes_the_sign_of_x_for_a_positive_determinant():
    assert to_fsl([[1, 0, 0]], np.diag([-2.0, 2, 2, 1])).tolist() == [[1, 0, 0]]
    assert to_fsl([[1, 0, 0]], np.diag([2.0, 2, 2, 1])).tolist() == [[1, 0, 0]]
    assert to_fsl([[0, 1, 0]], np.diag([2.0, 2, 2, 1])).tolist() == [[0, -1, 0]]
    assert to_fsl([[0, 0, 1]], np.diag([2.0, 2, 2, 1])).tolist() == [[0, 0, 1]]


def test_odd_private_fields_and_headers_do_no_harm(tmp_path):
    ds = dicom(VOLUMES[..., 0, 0].T, InstanceNumber=1, Manufacturer='GE MEDICAL SYSTEMS', **plane())
    ds.ImagePositionPatient = short(FIRST)
    ds.private_block(0x43, 'GEMS_PARM_01', create=True).add_new(0x39, 'LO', 'none')
    save(ds, tmp_path / 'a' / 'x')
    assert read_images(tmp_path / 'a')[0].shape == (12, 10, 1)
    ds.NumberOfFrames, ds.file_meta.MediaStorageSOPClassUID = 2_000_000_000, ENHANCED
    save(ds, tmp_path / 'a' / 'x')
    assert 'frames in one file' in refused(tmp_path / 'a')
    big = siemens(VOLUMES[..., 0], FIRST)
    big[0x19, 0x100A].value = 65535
    save(big, tmp_path / 'b' / 'x')
    assert 'do not fit' in refused(tmp_path / 'b')
    raw = io.BytesIO()
    big.save_as(raw, enforce_file_format=True)
    (tmp_path / 'b' / 'x').write_bytes(raw.getvalue()[:900])
    refused(tmp_path / 'b')


def test_damaged_bytes_are_refused_in_one_line(tmp_path, recwarn):
    "Random bytes in the headers of four kinds of file: read, or refused"
    small = np.stack([head((6, 5, 4), seed=k) for k in range(2)], -1)
    made = [
        siemens(small[..., 0], FIRST, b=1000, g=G[1]),
        uih(small[..., 0], FIRST, b=5),
        enhanced(small, FIRST, bvals=BVALS[:2], g=G),
        dicom(small[..., 0, 0].T, ImagePositionPatient=[1, 2, 3], **plane()),
    ]
    rng, path, refusals = np.random.default_rng(0), tmp_path / 'in' / 'a.dcm', 0
    for ds in made:
        whole = save(ds, path).read_bytes()
        for _ in range(60):
            raw = bytearray(whole)
            for at in rng.integers(132, min(len(whole), 3000), rng.integers(1, 6)):
                raw[at] = rng.choice([0, 255, 0x2D, 0x5C, rng.integers(256)])
            path.write_bytes(raw)
            try:
                read_images(path.parent)
            except InputError as e:
                refusals += 1
                assert '\n' not in str(e)
    assert 60 < refusals < 200 and not recwarn.list
