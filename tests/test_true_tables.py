"Gradient tables as scanners and converters write them: what is read, grouped, refused"

import json

import numpy as np
import pytest

from mri_diffusion.app.batch import _group_of, _groups_of
from mri_diffusion.core import InputError
from mri_diffusion.judge.tensors import dipy_tensor, tensor_fit
from mri_diffusion.methods.classical import nlmeans
from mri_diffusion.methods.ddm2_stage1 import neighbour_table, table_notes
from mri_diffusion.methods.scan_protocol import check_protocol
from mri_diffusion.methods.selfsup import repeat_groups
from mri_diffusion.noise.correlation import noise_kernel
from mri_diffusion.noise.sigma import estimate_sigma, repeats_of
from mri_diffusion.phantoms.heads import make_directions, tensor_maps
from mri_diffusion.scans import nifti
from mri_diffusion.scans.bids import ScanFile
from mri_diffusion.scans.nifti import Scan, load_bvals, load_bvecs
from mri_diffusion.scans.tables import (
    check_directions,
    gradient_notes,
    is_b0,
    repeat_groups_of,
    rewrite_tables,
    same_measurement,
    same_protocol,
    scale_b_by_length,
    shell_labels,
    shells,
)

IVIM = np.r_[0:41:5, 50, 75, 100, 150, 200, 400, 600, 800].astype(float)
X, Y, Z = np.eye(3)
O = np.zeros(3)


def body(b, shape=(30, 32, 14), sigma=10.0, seed=0):
    "Perfusion and diffusion of an ellipsoid with two tissues; the clean and the noisy series"
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing='ij')
    s0 = np.where((x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 1.1) ** 2 < 1, 700.0, 0)
    s0 += np.where((x / 0.4) ** 2 + (y / 0.4) ** 2 + z**2 < 1, 300, 0)
    clean = np.stack([s0 * (0.25 * np.exp(-0.05 * k) + 0.75 * np.exp(-1.1e-3 * k)) for k in b], -1)
    g = np.random.default_rng(seed)
    noise = sigma * g.standard_normal((2, *clean.shape))
    return clean, np.hypot(clean + noise[0], noise[1]) * (s0 > 0)[..., None]


def put(folder, stem, data, b=None, g=None):
    "A series with its tables as a scanner would write them"
    Scan.from_array(data).save(folder / f'{stem}.nii.gz')
    if b is not None:
        (folder / f'{stem}.bval').write_text(' '.join(f'{v:g}' for v in b) + '\n')
    if g is not None:
        np.savetxt(folder / f'{stem}.bvec', np.asarray(g).T, fmt='%.6f')
    return folder / f'{stem}.nii.gz'


# Which volumes measure the same thing


def test_ivim_has_no_repeats():
    "Ten b-values up to 50 are ten contrasts: sigma 10 was found as 62.5, nlmeans made 10 to 30"
    clean, noisy = body(IVIM)
    directions = make_directions(len(IVIM), 1)
    assert len(repeats_of(len(IVIM), IVIM)) == 0 and repeat_groups_of(IVIM, directions) == []
    assert len(set(same_measurement(IVIM, directions))) == len(IVIM)
    found = estimate_sigma(noisy, bvals=IVIM)
    assert abs(found.number / 10 - 1) < 0.15 and found.how != 'repeats'
    assert 'repeats' not in noise_kernel(noisy, bvals=IVIM)[1]
    with pytest.raises(InputError, match='no two volumes are known to measure the same'):
        estimate_sigma(noisy, 'repeats', bvals=IVIM)
    inside = clean[..., 0] > 0
    out = nlmeans(noisy[..., :6], found.number, bvals=IVIM[:6])
    rmse = np.sqrt(((out - clean[..., :6])[inside] ** 2).mean())
    assert rmse < 8


def test_n2n_refuses_ivim(tmp_path, cli):
    _, noisy = body(IVIM, (16, 16, 8))
    path = put(tmp_path, 'ivim', noisy, IVIM, make_directions(len(IVIM), 1))
    said = cli('denoise', str(path), str(tmp_path / 'o.nii.gz'), '--method', 'n2n')
    assert said.code == 2 and 'no measurement of this scan is repeated' in said.err
    assert not (tmp_path / 'o.nii.gz').exists()


SERIES = {  # b-values, directions, groups that repeat
    'HCP 3 T': ([5, 5, 995, 1000, 1005], [X, Z, X, X, Y], [[0, 1], [2, 3]]),
    'HCP 7 T': ([65, 60, 1000, 70, 1000], [X, Y, X, Z, Y], [[0, 1, 3]]),
    '0 and 5 mixed': ([0, 5, 1000, 0, 5], [O, X, Y, O, Z], [[0, 1, 3, 4]]),
    '0 and 5 of a perfusion series': ([0, 5, 0, 50, 5], [O, X, O, Y, X], [[0, 2], [1, 4]]),
    'a ladder with averages': ([0, 10, 20, 10, 20, 800], [O, X, X, -X, X, X], [[1, 3], [2, 4]]),
    'short ladder': ([0, 5, 10, 50, 100], [O, X, Y, Z, X], []),
    'low shell beside b0': ([0, 50, 0, 50, 800], [O, X, O, Y, X], [[0, 2]]),
    'antipodes': ([0, 1000, 1000, 1000], [O, X, -X, Y], [[1, 2]]),
    'averages': ([0] + [1000] * 6, [O, X, Y, Z, X, Y, Z], [[1, 4], [2, 5], [3, 6]]),
    'other shell': ([0, 1000, 1100], [O, X, X], []),
    'traces': ([0, 500, 500, 500], [O, O, O, O], []),
    'no directions given': ([0, 0, 1000, 1000], None, [[0, 1]]),
    'b = 100 in other directions': ([100, 100, 100, 600], [X, Y, X, X], [[0, 2]]),
    'no low b': ([1000, 1000, 2000, 2000], [X, Y, X, X], [[2, 3]]),
    'vectors that scale b': ([1500] * 4, [X / 2, X, -X / 2, Y], [[0, 2]]),
    'nothing': ([], None, []),
}


@pytest.mark.parametrize('kind', SERIES)
def test_groups(kind):
    b, g, groups = SERIES[kind]
    g = None if g is None else np.array(g)
    assert [v.tolist() for v in repeat_groups_of(b, g)] == groups
    if b:
        assert [v.tolist() for v in repeat_groups(len(b), b, g)] == groups
        longest = max(groups, key=len, default=[])
        assert repeats_of(len(b), b, g).tolist() == longest


def test_repeats_without_a_table():
    assert repeats_of(5).tolist() == [0, 1, 2, 3, 4]


# Shells


def test_b0s():
    for b, n in (([0, 50, 51], 2), ([60, 65, 70, 1000], 3), ([100, 100, 600], 2)):
        assert is_b0(b).sum() == n
    for none in ([1000, 1000, 2000], [100] * 6, [200, 1000, 3000], []):
        assert not is_b0(none).any()
    lowest = Scan.from_array(np.arange(3.0) * np.ones((3, 3, 3, 3)), bvals=[1000, 1000, 2000])
    assert (lowest.b0 == 0.5).all() and not lowest.is_b0.any()


def test_shells_near_fifty_are_one():
    assert shells([0, 745, 750, 755, 750, 745]) == shells([0, 755, 755, 750, 750, 745])
    assert shells([0, 745, 750, 755]) == [(0, 1), (750, 3)]
    assert len(set(shell_labels([0, 740, 750, 760]))) == 2
    scan = Scan.from_array(np.random.rand(3, 3, 3, 5), bvals=[5, 745, 750, 755, 2985])
    assert 'b = 0 (1), 750 (3), 3000 (1)' in repr(scan)


@pytest.mark.parametrize('planned', (250, 333, 700, 750, 850, 950, 1000, 1250, 2975, 10000))
def test_jitter_is_no_other_protocol(planned):
    g = np.random.default_rng(planned)
    table = lambda: np.r_[0, 5 * g.integers(0, 2, 2), planned * g.uniform(0.97, 1.03, 8)]
    first = table()
    for _ in range(50):
        assert same_protocol(first, table())
    others = [np.r_[first[:3], 1.2 * first[3:]], first[1:], np.r_[first[:3], first[1], first[4:]]]
    assert not any(same_protocol(first, t) for t in others)


def test_scans_of_one_protocol_share_a_model(tmp_path):
    "745, 750, 755 were two protocols; a mean on the edge of two names is one, too"
    tables = {
        'a': [0, 0, 745, 750, 755, 750],
        'b': [0, 5, 755, 755, 760, 750],
        'c': [0, 0, 965, 970, 975, 970],
        'd': [5, 0, 985, 980, 985, 980],
        'e': [0, 0, 700, 700, 705, 700],
    }
    files = []
    for k, b in tables.items():
        (tmp_path / f'{k}.bval').write_text(' '.join(map(str, b)))
        (tmp_path / f'{k}.json').write_text(json.dumps(dict(MagneticFieldStrength=3)))
        at = dict(path=tmp_path / f'{k}.nii.gz', bval=tmp_path / f'{k}.bval')
        files.append(scan_file(**at))
    names = _groups_of(files)
    assert names[0] == names[1] == _group_of(files[0]) and names[0].endswith('b0x2_b750x4')
    assert names[2] == names[3] and len(set(names)) == 3


def scan_file(path, bval):
    "A scan of a BIDS folder with the least that it can say"
    from dataclasses import MISSING, fields

    given = dict(path=path, bval=bval, suffix='dwi', subject='1')
    empty = {f.name: None for f in fields(ScanFile) if f.default is f.default_factory is MISSING}
    return ScanFile(**{**empty, **given})


# Directions


def test_trace_weighted_series_is_read_and_denoised(tmp_path, cli):
    "Zero directions at b = 500 and 1500 were refused, with the advice to divide by zero"
    b = np.array([0, 500, 1500])
    clean, noisy = body(b)
    path, out = put(tmp_path, 'p', noisy, b, np.zeros((3, 3))), tmp_path / 'o.nii.gz'
    for words in (
        ('noise', path),
        ('denoise', path, out, '--method', 'nlmeans', '--sigma', '10'),
        ('simulate', path, tmp_path / 's.nii.gz', '--snr', '20'),
    ):
        assert cli(*map(str, words)).code == 0, words
    notes = json.loads((tmp_path / 'o.json').read_text())['Notes']
    assert 'volume 1 (b = 500) and 1 more have no direction: trace-weighted' in notes[0]
    assert load_bvals(tmp_path / 'o.bval').tolist() == b.tolist()
    scan = Scan.load(out)
    with pytest.raises(InputError, match=r'tensor: volume 1 \(b = 500\) and 1 more have no dir'):
        dipy_tensor(scan.data, scan.bvals, scan.bvecs)
    said = put(tmp_path, 'c', clean, b)
    found = cli('evaluate', str(out), '--clean', str(said))
    assert found.code == 0 and 'trace-weighted' in found.out


def test_lengths_that_may_scale_b(tmp_path):
    "b = 1500 and |g| = 0.577 is b = 500 for MRtrix, 1500 for others: both are said"
    planned, unit = np.array([0, 500, 1000, 1500.0]), np.array([O, X, Y, Z])
    written = unit * np.sqrt(planned / 1500)[:, None]
    path = put(tmp_path, 'ge', body(planned, (8, 8, 8))[1], np.full(4, 1500), written)
    scan = Scan.load(path)
    note = next(n for n in scan.notes if 'length' in n)
    assert 'b = 500 if the length scales b' in note and 'b = 1500 if not' in note
    assert 'divide' not in note and np.allclose(scan.bvecs, written, atol=1e-5)
    scan.save(tmp_path / 'out.nii.gz')
    assert np.allclose(load_bvecs(tmp_path / 'out.bvec', scan.bvals), written, atol=1e-5)
    with pytest.raises(InputError, match='b = 500 if .*b = 1500 if not; .*rewrite_tables'):
        check_directions('tensor', scan.bvals, scan.bvecs)
    for lengths, b in (('scale', planned), ('drop', np.full(4, 1500.0))):
        tables = tmp_path / 'ge.bval', tmp_path / 'ge.bvec'
        new = rewrite_tables(*tables, tmp_path / lengths, lengths)
        assert np.allclose(load_bvals(new[0]), b, atol=0.01)
        assert np.allclose(load_bvecs(new[1], b), unit, atol=1e-5)
    assert np.allclose(scale_b_by_length(np.full(4, 1500), written)[0], planned)
    with pytest.raises(InputError, match="lengths='both'; 'scale' or 'drop'"):
        rewrite_tables(*tables, tmp_path / 'x', 'both')


def test_ordinary_tables_get_no_note():
    b, g = np.array([0, 5, 995, 1000]), np.array([O, [0.3, 0, 0], X, [0, 1.02, 0]])
    scan = Scan.from_array(np.random.rand(3, 3, 3, 4), bvals=b, bvecs=g)
    assert scan.notes == [] and np.array_equal(scan.bvecs, [O, O, X, Y])
    check_directions('tensor', scan.bvals, scan.bvecs)
    assert 'ms/µm²' in gradient_notes(np.array([0, 1.0, 2]), None)[0]


def test_lowest_shell_without_a_direction():
    "7 T: b = 65 with a zero direction is a b0"
    b, g = np.r_[60, 70, np.full(6, 1000)], np.r_[np.zeros((2, 3)), make_directions(6, 0)]
    scan = Scan.from_array(body(b, (8, 8, 6))[1], bvals=b, bvecs=g)
    assert scan.notes == [] and scan.is_b0.sum() == 2
    assert np.isfinite(dipy_tensor(scan.data + 1, b, g).md).all()


def test_protocol_and_neighbours_without_directions():
    b, none = np.array([0, 500, 500, 500, 1000, 1000]), np.zeros((6, 3))
    learned = dict(use=np.ones(6, bool), bvals=b, bvecs=none)
    check_protocol('r2r', learned, (8, 8, 8, 6), b, none)
    with pytest.raises(InputError, match='volume 2 points elsewhere'):
        check_protocol('r2r', learned, (8, 8, 8, 6), b, np.array([O, O, X, O, O, O]))
    table = neighbour_table(b, none, 2, 'qspace', 'together')
    assert table[2][:2] == [3, 1] or table[2][:2] == [1, 3]
    assert '5 weighted volumes have no direction' in ' '.join(table_notes(table, b, none))
    scaled = np.array([O, X / 2, X, Y, Y / 2, X])
    assert neighbour_table(b, scaled, 1, 'qspace', 'together')[1][0] in (2, 5)


# Text files

TEXTS = {
    'commas': b'0,1000,1000',
    'comma and space': b'0, 1000, 1000\n',
    'tabs, CRLF': b'0\t1000\t1000\r\n',
    'CR alone': b'0 1000 1000\r',
    'column, trailing lines': b'0\n1000\n1000\n\n\n',
    'semicolons': b'0;1000;1000;',
    'mark': b'\xef\xbb\xbf0 1000 1000\n',
    'UTF-16': '0 1000 1000\r\n'.encode('utf-16'),
    'comment': b'# made by hand\n0 1000 1000\n',
    'exponents': b'0 1e3 1.0E+03',
}


@pytest.mark.parametrize('kind', TEXTS)
def test_spellings(tmp_path, kind):
    (tmp_path / 't').write_bytes(TEXTS[kind])
    assert load_bvals(tmp_path / 't', 3).tolist() == [0, 1000, 1000]


BAD = {
    'trailing NaN': (b'0 1000 nan', 'NaN or Inf, first for volume 2'),
    'infinite': (b'0 1000 1e999', 'NaN or Inf'),
    'decimal commas': (b'0,0 999,5 1000,1', 'decimal commas'),
    'words': (b'0 b1000 1000', 'not a number'),
    'underscore': (b'0 1_000 1000', 'not a number'),
    'bytes': (bytes(range(128, 256)), 'not a number'),
    'few': (b'0 1000', '2 b-values for 3 volumes'),
    'negative': (b'0 -1000 1000', 'negative b-value -1000'),
    'directions': (b'0 1 0\n0 0 1\n0 0 0', r'3 x 3 numbers; .*is this the .bvec file\?'),
    'nothing': (b'\n \n', 'empty'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_texts(tmp_path, kind):
    text, said = BAD[kind]
    (tmp_path / 't').write_bytes(text)
    with pytest.raises(InputError, match=said) as e:
        load_bvals(tmp_path / 't', 3)
    assert '\n' not in str(e.value)


def test_large_file_is_no_table(tmp_path):
    with open(tmp_path / 't', 'wb') as f:
        f.truncate(20_000_000)
    with pytest.raises(InputError, match='20 MB, too large for a gradient table'):
        load_bvals(tmp_path / 't')


def test_three_volumes_in_either_layout(tmp_path):
    g = np.array([[0.6, 0.8, 0], [0, 0.6, 0.8], [0.28, 0, 0.96]])
    b, notes = [1000] * 3, []
    for name, a in (('rows', g.T), ('columns', g)):
        np.savetxt(tmp_path / name, a)
        assert np.allclose(load_bvecs(tmp_path / name, b, notes=notes), g)
    assert len(notes) == 1 and 'read as columns' in notes[0]
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0.0]])
    np.savetxt(tmp_path / 'either', turn)
    assert np.array_equal(load_bvecs(tmp_path / 'either', b, notes=notes), turn.T)
    assert 'rows (FSL): both would do' in notes[1]


def test_swapped_tables(tmp_path):
    (tmp_path / 't.bval').write_text('0 1000 1000 1000')
    with pytest.raises(InputError, match=r'1 x 4 numbers; .*is this the .bval file\?'):
        load_bvecs(tmp_path / 't.bval', n=4)
    (tmp_path / 't.bval').write_text('0 1000 1000')
    with pytest.raises(InputError, match=r'1 direction for 3 volumes; .*\.bval file\?'):
        load_bvecs(tmp_path / 't.bval', n=3)
    np.savetxt(tmp_path / 't.b', np.c_[make_directions(6, 0), np.full(6, 1000)])
    with pytest.raises(InputError, match='x, y, z and b in one table'):
        load_bvecs(tmp_path / 't.b', n=6)


def test_names_stay_where_they_were():
    assert nifti.load_bvals is load_bvals and nifti.B0_MAX == 50
    from mri_diffusion.scans.patches import shell_labels as the_same

    assert the_same is shell_labels


# Volumes without a direction in a tensor fit


def fibre_series(extra=2, seed=0):
    "A series of 12 directions and one b0 of a bundle (FA 0.7), then trace-weighted volumes"
    g = np.vstack([O, make_directions(12, 1), np.zeros((extra, 3))])
    b = np.r_[0, np.full(12, 1000.0), 1000.0, np.full(extra - 1, 500.0)]
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (12, 12, 6)], indexing='ij')
    s0 = np.where((x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 1.1) ** 2 < 1, 700.0, 0)
    d = np.diag([1.6e-3, 0.4e-3, 0.4e-3])
    clean = s0[..., None] * np.exp(-b * np.einsum('vi,ij,vj->v', g, d, g))
    clean[..., 13:] = s0[..., None] * np.exp(-b[13:] * 0.8e-3)  # The mean over all directions
    return clean.astype(np.float32), b, g, s0 > 0


def test_a_tensor_is_fitted_without_the_trace_weighted_volumes(cli, tmp_path):
    clean, b, g, inside = fibre_series()
    maps = tensor_fit(clean, b, g, inside)
    short = tensor_fit(clean[..., :13], b[:13], g[:13], inside)
    assert all(np.array_equal(maps[k], short[k]) for k in maps)
    spread = np.sqrt(1.5 * ((np.array([1.6, 0.4, 0.4]) - 0.8) ** 2).sum() / (1.6**2 + 0.32))
    assert np.allclose(maps['FA'][inside], spread, rtol=2e-3)
    assert np.allclose(maps['MD'][inside], 0.8e-3, rtol=2e-3)
    truth = put(tmp_path, 'clean', clean, b, g)
    put(tmp_path, 'noisy', clean * 1.01 + 1, b, g)
    got = cli(
        'evaluate', tmp_path / 'noisy.nii.gz', '--clean', truth, '--json', tmp_path / 'e.json'
    )
    assert got.code == 0 and '2 volumes without direction' in got.out
    found = json.loads((tmp_path / 'e.json').read_text())
    assert found['tensor_left_out'] == 2 and found['tensor']['denoised']['FA'] < 0.05
    assert 'left out of a tensor fit' in ' '.join(Scan.load(truth).notes)
    head = tensor_maps(Scan.from_array(clean, bvals=b, bvecs=g, mask=inside))
    assert np.allclose(head['fa'][inside], spread, rtol=2e-3)


def test_fewer_than_six_directions_are_refused_as_before():
    clean, b, g, _ = fibre_series()
    g[6:13] = 0
    with pytest.raises(InputError, match=r'tensor: volume 6 \(b = 1000\) and 8 more have no dir'):
        tensor_fit(clean, b, g)
    g[6] = g[5]  # Six volumes, five directions
    with pytest.raises(InputError, match='7 more have no direction'):
        tensor_fit(clean, b, g)
