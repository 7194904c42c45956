"Folders of PNG and DICOM slices through the command line"

import json
import os
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, MRImageStorage, generate_uid

from mri_diffusion.core import InputError, read_json
from mri_diffusion.scans.dicom import read_images
from mri_diffusion.scans.nifti import Scan

NAMES = [f'img{k}.png' for k in (1, 2, 3, 10, 11, 12)]


def pictures(folder, bits=16, noise=0.0, seed=0):
    "Six slices of a head, brightest at the top, in the order of NAMES; (Z, H, W) values"
    y, x = np.mgrid[-1:1:28j, -1:1:24j]
    head = [((x / 0.7) ** 2 + (y / 0.85) ** 2 < 1) * (600 - 300 * y + 30 * k) for k in range(6)]
    values = np.array(head) + noise * np.random.default_rng(seed).normal(size=(6, 28, 24))
    values = np.clip(np.round(values / (1 if bits == 16 else 5)), 0, 2**bits - 1).astype(
        f'u{bits // 8}'
    )
    folder.mkdir()
    for name, v in zip(NAMES, values):
        Image.fromarray(v).save(folder / name)
    return values


def slice_of(k=0, rows=12, cols=10, series='1.2.3', **fields):
    "One DICOM slice, 2.5 mm above the one before it"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    told = dict(
        PatientName='Doe^Jane',
        PatientID='ID-007',
        PatientBirthDate='19700101',
        SeriesInstanceUID=series,
        SeriesDescription='t1_mprage',
        InstanceNumber=9 - k,
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[-20, -30, 5 + 2.5 * k],
        PixelSpacing=[1.5, 1.25],
        Rows=rows,
        Columns=cols,
        SamplesPerPixel=1,
        PhotometricInterpretation='MONOCHROME2',
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        RescaleSlope=0.5,
        RescaleIntercept=-3,
        PixelData=stored(k, rows, cols).tobytes(),
    )
    for name, v in {**told, **fields}.items():
        setattr(ds, name, v)
    return ds


def stored(k, rows=12, cols=10):
    return (100 * k + 7 * np.arange(rows)[:, None] + np.arange(cols)).astype('<u2')


def write(ds, path):
    path.parent.mkdir(exist_ok=True)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds['PixelData'].VR = 'OB'
    ds.save_as(path, enforce_file_format=True)


def series(folder, n=4, **fields):
    for k in range(n):
        write(slice_of(k, **fields), folder / f'IM{n - k}')
    return folder


@pytest.mark.parametrize('bits', [8, 16])
def test_png_out_and_back_is_exact(cli, tmp_path, bits):
    pictures(tmp_path / 'in', bits)
    got = cli('denoise', tmp_path / 'in', tmp_path / 'out', '--method', 'identity')
    assert got.code == 0 and '1 mm is assumed' in got.err and 'clipped' not in got.err, got.err
    assert sorted(os.listdir(tmp_path)) == ['in', 'out', 'out.json']
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(NAMES)
    for n in NAMES:
        before, after = (np.asarray(Image.open(tmp_path / d / n)) for d in ('in', 'out'))
        assert before.dtype == after.dtype and np.array_equal(before, after)
    record = read_json(tmp_path / 'out.json')
    assert record['Sources'] == ['in'] and record['Method'] == 'identity'
    assert (tmp_path / 'out').stat().st_mode & 0o777 == (tmp_path / 'in').stat().st_mode & 0o777


def test_slices_are_upright_and_in_order(tmp_path):
    values = pictures(tmp_path / 'in')
    scan = Scan.load(tmp_path / 'in')
    assert scan.shape == (24, 28, 6)
    assert scan.images.names == tuple(NAMES) and scan.images.bits == 16
    assert all(scan.data[x, y, z] == values[z, 27 - y, x] for x, y, z in np.ndindex(24, 28, 6))


def test_denoise_to_png_and_to_nifti(cli, tmp_path, monkeypatch):
    pictures(tmp_path / 'clean'), pictures(tmp_path / 'in', noise=40)
    monkeypatch.chdir(tmp_path)
    for line in (
        'in out --residual r.nii.gz --noise-map s.nii.gz --report p.html',
        'in out.nii.gz --force',
    ):
        got = cli('denoise', *line.split(), '--method', 'nlmeans', '--sigma', 40)
        assert got.code == 0, got.err
    clean, noisy, png, nifti = map(Scan.load, ('clean', 'in', 'out', 'out.nii.gz'))
    assert np.array_equal(png.data, np.clip(np.round(nifti.data), 0, 65535))
    assert nifti.images is None
    assert np.allclose(Scan.load('r.nii.gz').data, noisy.data - nifti.data, atol=1e-3)
    assert np.mean((png.data - clean.data) ** 2) < 0.5 * np.mean((noisy.data - clean.data) ** 2)
    for out in ('out', 'out.nii.gz'):
        json_file = f'{out}_j.json'
        got = cli('evaluate', out, *'--clean clean --noisy in --json'.split(), json_file)
        assert got.code == 0 and read_json(json_file)['psnr_gain'] > 2, got.err
    got = cli(*'noise in --mask clean --map m.nii.gz'.split())
    assert got.code == 0, got.err
    assert Scan.load('in', mask='clean').mask.sum() == (clean.data > 0).sum()


def test_one_png(cli, tmp_path):
    values = pictures(tmp_path / 'in', 8)
    one = tmp_path / 'in' / NAMES[3]
    got = cli('denoise', one, tmp_path / 'one.png', '--method', 'identity')
    assert got.code == 0, got.err
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'one.png')), values[3])
    assert read_json(tmp_path / 'one.json')['Sources'] == [NAMES[3]]
    assert cli('denoise', one, tmp_path / 'folder', '--method', 'blur').code == 0
    assert os.listdir(tmp_path / 'folder') == [NAMES[3]]
    assert cli('denoise', one, tmp_path / 'one.nii.gz', '--method', 'blur', '--force').code == 0
    assert Scan.load(tmp_path / 'one.nii.gz').shape == (24, 28, 1)


def test_the_folder_one_is_in(cli, tmp_path, monkeypatch):
    pictures(tmp_path / 'in')
    monkeypatch.chdir(tmp_path / 'in')
    assert cli('denoise', '.', '../out', '--method', 'identity').code == 0
    assert read_json(tmp_path / 'out.json')['Sources'] == ['in']


def test_simulate_says_what_png_cannot_hold(cli, tmp_path):
    pictures(tmp_path / 'clean', 8)
    options = '--snr 5 --noise gaussian'.split()
    got = cli('simulate', tmp_path / 'clean', tmp_path / 'noisy', *options)
    assert got.code == 0 and 'clipped; write .nii.gz' in got.err, got.err
    assert 'clipped' in ' '.join(read_json(tmp_path / 'noisy.json')['Notes'])
    got = cli('simulate', tmp_path / 'clean', tmp_path / 'n.nii.gz', *options)
    whole = Scan.load(tmp_path / 'n.nii.gz').data
    assert got.code == 0 and 'clipped' not in got.err and whole.min() < 0
    assert np.array_equal(Scan.load(tmp_path / 'noisy').data, np.clip(np.round(whole), 0, 255))


def test_train_on_folders(cli, tmp_path, monkeypatch):
    pictures(tmp_path / 'clean'), pictures(tmp_path / 'in', noise=30)
    monkeypatch.chdir(tmp_path)
    line = 'train unet in --clean clean --out m --preset tiny --steps 2 --quiet'
    got = cli(*line.split())
    assert got.code == 0, got.err
    got = cli(*'denoise in out --model m --quiet'.split())
    assert got.code == 0 and len(os.listdir('out')) == 6 and not got.err, got.err


def test_force_touches_only_the_same_names(cli, tmp_path):
    pictures(tmp_path / 'in'), (tmp_path / 'out').mkdir()
    mine, first = tmp_path / 'out' / 'mine.png', tmp_path / 'out' / NAMES[0]
    mine.write_text('kept'), first.write_text('old')
    words = ['denoise', tmp_path / 'in', tmp_path / 'out', '--method', 'identity']
    refused(cli, words, tmp_path, 'exists; use --force')
    assert first.read_text() == 'old' and cli(*words, '--force').code == 0
    before, after = (np.asarray(Image.open(p)) for p in (tmp_path / 'in' / NAMES[0], first))
    assert mine.read_text() == 'kept' and np.array_equal(before, after)


def refused(cli, words, folder, said):
    before = {p: p.read_bytes() if p.is_file() else None for p in folder.rglob('*')}
    got = cli(*words)
    assert got.code == 2 and not got.out and got.err.count('\n') == 1, got
    assert got.err.startswith('mri-diffusion: error: '), got
    assert said in got.err and 'unexpected' not in got.err, got.err
    assert {p: p.read_bytes() if p.is_file() else None for p in folder.rglob('*')} == before


def broken(f, how):
    raw = (f / 'in' / NAMES[1]).read_bytes()
    (f / 'in' / NAMES[1]).write_bytes(how(raw))


def turned(raw):
    raw = bytearray(raw)
    raw[len(raw) // 2] ^= 255
    return bytes(raw)


def only(f, write_one):
    shutil.rmtree(f / 'in')
    (f / 'in').mkdir()
    write_one(f / 'in')


rng = np.random.default_rng(0)
BAD_PNG = dict(
    truncated=(lambda f: broken(f, lambda raw: raw[: len(raw) // 2]), 'truncated'),
    cut_end=(lambda f: broken(f, lambda raw: raw[:-5]), 'truncated'),
    corrupt=(lambda f: broken(f, turned), 'damaged'),
    zero_bytes=(lambda f: broken(f, lambda raw: b''), '0 bytes'),
    not_png=(lambda f: broken(f, lambda raw: b'hello' * 50), 'not a PNG'),
    jpeg=(
        lambda f: Image.fromarray(np.zeros((28, 24), np.uint8)).save(f / 'in' / NAMES[1], 'JPEG'),
        'not a PNG',
    ),
    colour=(
        lambda f: Image.fromarray(rng.integers(0, 256, (28, 24, 3)).astype(np.uint8)).save(
            f / 'in' / NAMES[1]
        ),
        'colour image',
    ),
    coloured_palette=(
        lambda f: (
            Image.fromarray(rng.integers(0, 256, (28, 24, 3)).astype(np.uint8))
            .quantize(9)
            .save(f / 'in' / NAMES[1])
        ),
        'colour image',
    ),
    transparent=(
        lambda f: Image.fromarray(rng.integers(0, 256, (28, 24, 2)).astype(np.uint8)).save(
            f / 'in' / NAMES[1]
        ),
        'transparent',
    ),
    sizes=(
        lambda f: Image.fromarray(np.ones((9, 8), np.uint16)).save(f / 'in' / 'x.png'),
        '24 x 28: 6, 8 x 9: 1',
    ),
    depths=(
        lambda f: Image.fromarray(np.ones((28, 24), np.uint8)).save(f / 'in' / 'x.png'),
        '1 images of 8 and 6 of 16 bits',
    ),
    empty=(lambda f: only(f, lambda d: None), 'no PNG or DICOM image'),
    other_files=(
        lambda f: only(
            f, lambda d: (d / '.hidden.png').write_text('') or (d / 'notes.txt').write_text('')
        ),
        'no PNG or DICOM image',
    ),
    mixed=(lambda f: write(slice_of(), f / 'in' / 'a.dcm'), '6 PNG and 1 DICOM'),
    constant=(
        lambda f: only(
            f, lambda d: Image.fromarray(np.full((9, 8), 7, np.uint8)).save(d / 'a.png')
        ),
        'constant',
    ),
)


@pytest.mark.parametrize('out', ['out', 'out.nii.gz'])
@pytest.mark.parametrize('kind', BAD_PNG)
def test_bad_png(cli, tmp_path, kind, out):
    make, said = BAD_PNG[kind]
    pictures(tmp_path / 'in')
    make(tmp_path)
    refused(cli, ['denoise', tmp_path / 'in', tmp_path / out, '--method', 'blur'], tmp_path, said)


CALLS = dict(
    residual=('denoise in out --method blur --residual r.png', 'signed'),
    std=('denoise in out --method blur --std s.png', 'signed'),
    sigma_map=('simulate in out --snr 9 --sigma-map s.png', 'signed'),
    six_in_one=('denoise in out.png --method blur', '6 images do not fit'),
    other_ending=('denoise in out.tif --method blur', 'give a folder'),
    over_itself=('denoise in in --method blur --force', 'belongs to the input'),
    over_itself_from_inside=(
        'denoise in/img1.png in --method blur --force',
        'belongs to the input',
    ),
    over_one=('denoise in/img1.png in/img1.png --method blur --force', 'belongs to the input'),
    into_the_input=('denoise single single/b.png --method blur', 'belongs to the input'),
    map_among_the_slices=(
        'denoise in out --method blur --residual out/r.nii.gz',
        'lies in the folder',
    ),
    folder_is_a_file=('denoise in file --method blur --force', 'is a file'),
    png_is_a_folder=('denoise in/img1.png dir.png --method blur --force', 'is a folder'),
    record_exists=('denoise in out2 --method blur', 'out2.json: exists'),
    nifti_to_png=('denoise t.nii.gz out.png --method blur', '.nii'),
    nifti_to_folder=('denoise t.nii.gz out --method blur', '.nii'),
    dicom_to_png=('denoise series out --method blur', 'DICOM is not written'),
    dicom_to_dicom=('denoise series out.dcm --method blur', 'DICOM is not written'),
    clean_size=('evaluate in --clean single --json j.json', 'shape'),
    clean_place=('evaluate in --clean moved.nii.gz --json j.json', 'affine'),
    mask_empty=('denoise in out --method blur --mask dark', 'empty mask'),
    missing=('denoise nowhere out --method blur', 'no such file'),
)


@pytest.mark.parametrize('kind', CALLS)
def test_bad_call(cli, tmp_path, monkeypatch, kind):
    line, said = CALLS[kind]
    pictures(tmp_path / 'in'), series(tmp_path / 'series')
    for d in ('single', 'dark'):
        (tmp_path / d).mkdir()
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(9, 8)).save(tmp_path / 'single' / 'a.png')
    for n in NAMES:
        Image.fromarray(np.zeros((28, 24), np.uint8)).save(tmp_path / 'dark' / n)
    (tmp_path / 'file').write_text('')
    (tmp_path / 'dir.png').mkdir()
    (tmp_path / 'out2.json').write_text('{}')
    data = Scan.load(tmp_path / 'in').data
    Scan.from_array(data).save(tmp_path / 't.nii.gz')
    Scan.from_array(data, np.diag([2.0, 2, 2, 1])).save(tmp_path / 'moved.nii.gz')
    monkeypatch.chdir(tmp_path)
    refused(cli, line.split(), tmp_path, said)


def test_dicom_series(cli, tmp_path):
    series(tmp_path / 'series')
    (tmp_path / 'series' / 'README').write_text('not an image')
    got = cli('denoise', tmp_path / 'series', tmp_path / 'out.nii.gz', '--method', 'identity')
    scan = Scan.load(tmp_path / 'out.nii.gz')
    assert got.code == 0 and scan.shape == (10, 12, 4), got.err
    assert 'below zero' in got.err and got.err.count('\n') == 1  # the rescale intercept is -3
    for k in range(4):
        assert np.array_equal(scan.data[..., k], 0.5 * stored(k)[::-1].T - 3)
    place = lambda x, y, z: (scan.affine @ [x, y, z, 1])[:3]
    assert np.allclose(place(0, 11, 0), [20, 30, 5])
    assert np.allclose(place(3, 11 - 2, 1), [20 - 3 * 1.25, 30 - 2 * 1.5, 7.5])
    kept = json.dumps(read_json(tmp_path / 'out.json')) + repr(
        Scan.load(tmp_path / 'series').images
    )
    kept += str((tmp_path / 'out.nii.gz').read_bytes())
    assert not any(w in kept for w in ('Jane', 'ID-007', '19700101'))
    one = Scan.load(tmp_path / 'series' / 'IM2')
    assert one.shape == (10, 12, 1) and np.array_equal(one.data[..., 0], scan.data[..., 2])


def with_pixels(ds, syntax, data):
    ds.file_meta.TransferSyntaxUID, ds.PixelData = syntax, data
    return ds


def without(ds, *names):
    for n in names:
        delattr(ds, n)
    return ds


def replaced(ds):
    return lambda f: write(ds, f / 'IM2')


BAD_DICOM = dict(
    two_series=(
        replaced(slice_of(2, series='1.2.9', SeriesDescription='t2_tse')),
        't1_mprage: 3, t2_tse: 1',
    ),
    sizes=(replaced(slice_of(2, rows=9)), '10 x 12: 3, 10 x 9: 1'),
    orientations=(
        replaced(slice_of(2, ImageOrientationPatient=[0, 1, 0, 0, 0, 1])),
        'orientations',
    ),
    pixel_sizes=(replaced(slice_of(2, PixelSpacing=[1, 1])), 'pixel sizes'),
    no_pixels=(replaced(without(slice_of(2), 'PixelData')), 'no pixel data'),
    no_image=(replaced(without(slice_of(2), 'PixelData', 'Rows')), 'holds no image'),
    few_pixels=(replaced(slice_of(2, PixelData=b'12')), 'truncated'),
    packed=(
        replaced(with_pixels(slice_of(2), JPEGLSLossless, pydicom.encaps.encapsulate([b'1234']))),
        'compressed (JPEG-LS',
    ),
    frames=(replaced(slice_of(2, NumberOfFrames=4)), 'dcm2niix'),
    colour=(replaced(slice_of(2, SamplesPerPixel=3, PhotometricInterpretation='RGB')), 'colour'),
    geometry=(replaced(slice_of(2, ImageOrientationPatient=[2, 0, 0, 0, 1, 0])), 'orientations'),
    no_spacing=(replaced(slice_of(2, PixelSpacing=[1])), 'damaged geometry'),
    text=(lambda f: (f / 'a.dcm').write_text('hello'), 'not a DICOM'),
    torn=(lambda f: (f / 'IM2').write_bytes((f / 'IM2').read_bytes()[:200]), 'IM2'),
    torn_pixels=(lambda f: (f / 'IM2').write_bytes((f / 'IM2').read_bytes()[:-50]), 'IM2'),
)


@pytest.mark.parametrize('kind', BAD_DICOM)
def test_bad_dicom(cli, tmp_path, kind):
    make, said = BAD_DICOM[kind]
    make(series(tmp_path / 'in'))
    words = ['denoise', tmp_path / 'in', tmp_path / 'out.nii.gz', '--method', 'blur']
    refused(cli, words, tmp_path, said)


def test_doubts_about_dicom_are_noted(cli, tmp_path):
    series(tmp_path / 'gap', 5), (tmp_path / 'gap' / 'IM3').unlink()
    got = cli('denoise', tmp_path / 'gap', tmp_path / 'a.nii.gz', '--method', 'identity')
    assert got.code == 0 and 'uneven spacing of slices, 2.5 to 5 mm' in got.err
    for k in range(4):
        write(slice_of(k % 2, InstanceNumber=k + 1), tmp_path / 'twice' / f'{9 - k}.dcm')
    got = cli('denoise', tmp_path / 'twice', tmp_path / 'b.nii.gz', '--method', 'identity')
    scan = Scan.load(tmp_path / 'b.nii.gz')
    assert got.code == 0 and '2 volumes of 2 slices, told apart by InstanceNumber only' in got.err
    assert scan.shape == (10, 12, 2, 2)
    assert np.array_equal(scan.data[..., 1], scan.data[..., 0])
    assert np.allclose(scan.voxel_size, [1.25, 1.5, 2.5])
    for k in range(3):
        write(without(slice_of(k), 'ImagePositionPatient'), tmp_path / 'nowhere' / f'{k}.dcm')
    data, affine, _, notes = read_images(tmp_path / 'nowhere')
    assert np.array_equal(affine, np.diag([1.25, 1.5, 1, 1])) and 'no position' in notes[0]
    assert np.array_equal(data[..., 0], 0.5 * stored(2)[::-1].T - 3)


def test_a_full_disk_leaves_nothing(cli, tmp_path, monkeypatch):
    pictures(tmp_path / 'in')
    save, n = Image.Image.save, []

    def full(self, *args, **kw):
        n.append(1)
        if len(n) > 3:
            raise OSError(28, 'No space left on device')
        return save(self, *args, **kw)

    monkeypatch.setattr(Image.Image, 'save', full)
    got = cli('denoise', tmp_path / 'in', tmp_path / 'out', '--method', 'blur')
    assert got.code == 1 and 'No space left' in got.err and os.listdir(tmp_path) == ['in']


def test_images_of_python(tmp_path):
    pictures(tmp_path / 'in')
    scan = Scan.load(tmp_path / 'in')
    with pytest.raises(InputError, match='.nii'):
        Scan.from_array(scan.data).save(tmp_path / 'out')
    assert scan.save(tmp_path / 'out') == tmp_path / 'out' and not (tmp_path / 'out.json').exists()
    with pytest.raises(InputError, match='keep the axes'):
        scan.with_data(np.repeat(scan.data[..., None], 2, 3)).save(tmp_path / 'four')
    assert sorted(os.listdir(tmp_path)) == ['in', 'out']
