"What the readers of scans refuse, and in which words: the refusals that the pages of `scans` list"

import gzip
from unittest import mock

import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.core import InputError
from mri_diffusion.scans.nifti import (
    Scaling,
    Scan,
    auto_mask,
    bids_name,
    fit_scaling,
    load_bvals,
    load_bvecs,
    load_like,
    read_nifti,
)
from mri_diffusion.scans.tables import check_directions


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)
    return path


def flipped(raw):
    raw = bytearray(raw)
    raw[len(raw) // 2] ^= 255
    return bytes(raw)


BYTES = {  # How the bytes of a whole .nii.gz are spoilt, the name, and what must be said
    'half': (lambda b: b[: len(b) // 2], 'x.nii.gz', 'truncated'),
    'no checksum': (lambda b: b[:-4], 'x.nii.gz', 'truncated'),
    'one byte': (flipped, 'x.nii.gz', 'gzip|damaged'),
    'short': (lambda b: gzip.decompress(b)[:9000], 'x.nii', 'truncated, the shape'),
    'text': (lambda b: b'not an image\n' * 50, 'x.nii', 'not a NIfTI'),
    'text.gz': (lambda b: b'not an image\n' * 50, 'x.nii.gz', 'gzip'),
    'random': (lambda b: np.random.default_rng(0).bytes(4000), 'x.nii', 'not a NIfTI'),
    'nothing': (lambda b: b'', 'x.nii.gz', '0 bytes'),
    'hidden': (lambda b: b, 'x.nii', r'name it .nii.gz'),
    'other name': (lambda b: b, 'x.mgz', 'does not end in'),
}
HOLES = np.ones((8, 8, 8), np.float32)
HOLES[0, 0, :3], HOLES[1, 1, 1] = np.nan, np.inf
ARRAYS = {
    '1-D': (np.ones(8, np.float32), '1-D'),
    '5-D': (np.ones((4, 4, 4, 2, 3), np.float32), '5-D'),
    'holes': (HOLES, r'4 of 512 values are not finite \(3 NaN, 1 Inf\)'),
    'complex': (np.ones((4, 4, 4), np.complex64), 'complex'),
    'colour': (np.zeros((4, 4, 4), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]), 'RGB'),
}


@pytest.mark.parametrize('kind', BYTES)
def test_damaged_file(tmp_path, kind):
    spoil, name, said = BYTES[kind]
    stored = np.random.default_rng(0).integers(900, 1100, (24, 28, 12)).astype(np.int16)
    whole = save(tmp_path / 'whole.nii.gz', stored).read_bytes()
    (tmp_path / name).write_bytes(spoil(whole))
    with pytest.raises(InputError, match=said):
        read_nifti(tmp_path / name)


@pytest.mark.parametrize('kind', ARRAYS)
def test_file_that_is_no_scan(tmp_path, kind):
    data, said = ARRAYS[kind]
    with pytest.raises(InputError, match=said):
        read_nifti(save(tmp_path / 'x.nii.gz', data))


def test_file_that_may_not_be_read(tmp_path):
    path = save(tmp_path / 'x.nii.gz', np.ones((4, 4, 4), np.float32))
    with (
        mock.patch('gzip.open', side_effect=PermissionError),
        pytest.raises(InputError, match='permission'),
    ):
        read_nifti(path)


TABLES = {  # Reader, what the file holds, and what must be said
    'length': (lambda p: load_bvals(p, 7), '0 1000 1000 1000 2000 2000', '6 b-values for 7'),
    'word': (load_bvals, '0 1000 x 1000', 'not a number'),
    'negative': (load_bvals, '0 -5 1000 1000', 'negative'),
    'nan': (load_bvals, '0 nan 1000 1000', 'NaN'),
    'directions': (load_bvals, '0 1 0\n0 0 1\n0 0 0', 'one row'),
    'ragged': (load_bvecs, '0 1 0\n0 0\n0 0 1', 'differ in length'),
    'long': (
        lambda p: check_directions('tensor', b := [0, 1000, 1000, 1000], load_bvecs(p, b)),
        '0 1 0 0\n0 0 1.2 0\n0 0 0 1',
        'length 1.2: b = 1440 if',
    ),
    'nan direction': (lambda p: load_bvecs(p, [9000] * 4), '1 nan 0\n' * 4, 'length nan'),
    'two rows': (load_bvecs, '0 1 0 0\n0 0 1 0', '2 x 4'),
    'volumes': (lambda p: load_bvecs(p, n=6), '0 1 0 0\n' * 3, '4 directions for 6'),
}


@pytest.mark.parametrize('kind', TABLES)
def test_gradient_table(tmp_path, kind):
    read, text, said = TABLES[kind]
    (tmp_path / 'table').write_text(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path / 'table')


def test_what_does_not_belong_to_the_scan(tmp_path):
    stored = np.random.default_rng(0).integers(900, 1100, (9, 8, 7, 3)).astype(np.int16)
    main = save(tmp_path / 'dwi.nii', stored)
    one, moved = np.ones((9, 8, 7), np.uint8), np.diag([2.0, 2, 2, 1])
    moved[0, 3] = 2
    partners = {
        r'\(9, 8, 6\)': save(tmp_path / 'a.nii', one[..., 1:]),
        '2 mm': save(tmp_path / 'b.nii', one, moved),
        'empty': save(tmp_path / 'c.nii', 0 * one),
    }
    for said, mask in partners.items():
        with pytest.raises(InputError, match=said):
            Scan.load(main, mask=mask)
    scan = Scan.load(main)
    with pytest.raises(InputError, match='clean of shape'):
        load_like(save(tmp_path / 'd.nii', one), scan, 'clean')
    with pytest.raises(InputError, match='does not fit'):
        scan.with_data(np.zeros((3, 3, 3)))
    with pytest.raises(InputError, match=r'volume \[0\]'):
        Scan.load(save(tmp_path / 'e.nii', stored * np.array([0, 1, 1], np.int16)))
    with pytest.raises(InputError, match='not finite'):
        scan.with_data(np.full(scan.shape, np.nan)).save(tmp_path / 'f.nii')
    assert not (tmp_path / 'f.nii').exists()


VALUES = {
    'no signal': (lambda: fit_scaling(np.zeros((2, 2, 2))), 'positive'),
    'no scale': (lambda: Scaling(0.0, 0.0), 'positive'),
    'no head': (lambda: auto_mask(np.zeros((4, 4, 4))), 'no foreground'),
    'picture': (lambda: Scan.from_array(np.ones((3, 3))), '2-D'),
    'bvecs': (lambda: Scan.from_array(np.ones((3, 3, 3, 4)), bvecs=np.eye(3)), r'\(V, 3\)'),
    'desc': (lambda: bids_name('a.nii', 'de-noised'), 'letters'),
    'ending': (lambda: Scan.from_array(np.ones((3, 3, 3))).save('x.img'), '.nii'),
}


@pytest.mark.parametrize('kind', VALUES)
def test_value(kind):
    call, said = VALUES[kind]
    with pytest.raises(InputError, match=said):
        call()
