"Raw data: axes of fastMRI, ISMRMRD files, and HDF5 that is not what it says"

import sys

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from mri_diffusion.core import InputError
from mri_diffusion.noise.kspace import coil_maps
from mri_diffusion.scans.fourier import fft2c, fftnc, ifft2c, rss
from mri_diffusion.scans.nifti import Scan
from mri_diffusion.scans.raw import load_fastmri, load_ismrmrd, load_raw

NS = 'http://www.ismrm.org/ISMRMRD'
COILS = 3


def picture(rows, columns, slices=2):
    "Slices (slice, rows, columns) without symmetry, zero at the edges"
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 < 1
    im = [inside * (2 + x + 0.1 * y * (k + 1) + (x > 0.3) * (y > 0.2)) for k in range(slices)]
    return torch.tensor(np.array(im), dtype=torch.float32)


def header(encoded, recon, fov, recon_fov, lines, centre=None, kind='cartesian', steps_2=None):
    "ISMRMRD header; matrices and fields of view (x, y, z)"
    axes = lambda v: ''.join(f'<{a}>{n:g}</{a}>' for a, n in zip('xyz', v))
    space = lambda name, n, f: (
        f'<{name}Space><matrixSize>{axes(n)}</matrixSize>'
        f'<fieldOfView_mm>{axes(f)}</fieldOfView_mm></{name}Space>'
    )
    limit = lambda k, n, c: (
        f'<kspace_encoding_step_{k}><minimum>0</minimum><maximum>{n - 1}</maximum>'
        f'<center>{c}</center></kspace_encoding_step_{k}>'
    )
    limits = limit(1, lines, lines // 2 if centre is None else centre)
    limits += limit(2, steps_2, steps_2 // 2) if steps_2 else ''
    spaces = space('encoded', encoded, fov) + space('recon', recon, recon_fov)
    return (
        f'<?xml version="1.0"?><ismrmrdHeader xmlns="{NS}"><encoding>{spaces}'
        f'<encodingLimits>{limits}</encodingLimits><trajectory>{kind}</trajectory>'
        '</encoding></ismrmrdHeader>'
    )


def oversampled(im):
    "k-space (slice, coil, 2 rows, columns) of (slice, rows, columns)"
    rows, columns = im.shape[-2:]
    coils = coil_maps((rows, columns), COILS) * im[:, None]
    return fft2c(torch.nn.functional.pad(coils, (0, 0, rows // 2, rows // 2)))


def write_kspace(path, kspace, xml=b'', **attrs):
    with h5py.File(path, 'w') as f:
        f['kspace'], f['ismrmrd_header'] = kspace.numpy(), xml
        f.attrs.update(attrs)
    return path


WIDE = header((96, 32, 1), (48, 32, 1), (480, 128, 4), (240, 128, 4), 32)


@pytest.fixture(scope='module')
def fast(tmp_path_factory):
    "fastMRI: 48 rows (5 mm) along the readout, 32 columns (4 mm)"
    k = oversampled(picture(48, 32))
    return write_kspace(tmp_path_factory.mktemp('fast') / 'file1.h5', k, WIDE.encode())


def test_fastmri_is_cropped_along_the_readout(fast):
    scan = load_fastmri(fast).images()
    assert scan.shape == (32, 48, 2) and scan.voxel_size == (4, 5, 4)
    upright = picture(48, 32).flip(1).permute(2, 1, 0).numpy()
    assert np.abs(scan.data - upright).max() < 0.02 * upright.max()
    assert load_raw(fast).shape == (32, 48, 2)


def test_fastmri_as_its_own_package_crops(fast):
    try:
        from fastmri.data import transforms
    except ImportError:
        pytest.skip('fastmri is not installed')
    with h5py.File(fast) as f:
        k = torch.from_numpy(f['kspace'][()])
    whole = rss(ifft2c(k), axis=1)
    theirs = transforms.center_crop(whole, (48, 32))  # (x, y) of the header's recon matrix
    ours = torch.from_numpy(load_fastmri(fast).images().data).permute(2, 1, 0).flip(1)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_fewer_columns_than_the_matrix_keep_their_size(tmp_path):
    xml = header((96, 32, 1), (48, 40, 1), (480, 128, 4), (240, 160, 4), 32)
    scan = load_fastmri(write_kspace(tmp_path / 'a.h5', oversampled(picture(48, 32)), xml)).images()
    assert scan.shape == (32, 48, 2) and scan.voxel_size == (4, 5, 4)


def test_undersampled_fastmri_is_refused(tmp_path):
    k = oversampled(picture(48, 32))
    k[..., 1:12:2] = 0
    with pytest.raises(InputError, match='26 of 32 columns'):
        load_raw(write_kspace(tmp_path / 'a.h5', k, WIDE))


def acquisition(line, flags=(), centre=None, **index):
    line = np.ascontiguousarray(line).astype(np.complex64)
    n = line.shape[1]
    a = ismrmrd.Acquisition.from_array(line, center_sample=n // 2 if centre is None else centre)
    for k, v in index.items():
        setattr(a.idx, k, int(v))
    for f in flags:
        a.set_flag(f)
    return a


def write_ismrmrd(path, acquisitions, xml=WIDE, shuffled=True):
    order = np.random.default_rng(0).permutation(len(acquisitions)) if shuffled else None
    with ismrmrd.Dataset(str(path), mode='w') as d:
        d.write_xml_header(xml.encode())
        for i in range(len(acquisitions)) if order is None else order:
            d.append_acquisition(acquisitions[i])
    return path


def lines(k, **more):
    "Acquisitions of k-space (slice, coil, readout, line)"
    return [
        acquisition(k[s, :, :, y], kspace_encode_step_1=y, slice=s, **more)
        for s in range(len(k))
        for y in range(k.shape[-1])
    ]


def test_ismrmrd_is_the_image_that_was_encoded(fast, tmp_path):
    k = oversampled(picture(48, 32)).numpy()
    noise = np.random.default_rng(1).normal(size=(COILS, 300, 2)) @ np.array([1, 1j])
    extra = [acquisition(noise, [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])]
    extra += [acquisition(k[0, :, :, 0], [ismrmrd.ACQ_IS_NAVIGATION_DATA])] * 2
    raw = load_ismrmrd(write_ismrmrd(tmp_path / 'a.h5', lines(k) + extra))
    assert torch.allclose(raw.kspace[0], torch.from_numpy(k))
    assert np.allclose(raw.noise, noise, atol=1e-6) and 'navigator: 2' in raw.notes[0]
    scan = load_raw(tmp_path / 'a.h5')
    assert scan.voxel_size == (4, 5, 4) and np.allclose(scan.data, load_raw(fast).data, atol=1e-5)
    assert 'navigator: 2' in scan.notes[0]


def test_averages_repetitions_and_contrasts(cli, tmp_path):
    k = oversampled(picture(48, 32)).numpy()
    both = lines(k, average=0) + lines(3 * k, average=1)
    raw = load_ismrmrd(write_ismrmrd(tmp_path / 'a.h5', both))
    assert np.allclose(raw.kspace[0], 2 * k, atol=1e-4) and '2 averages' in raw.notes[0]
    both = lines(k, repetition=4) + lines(3 * k, repetition=7)
    scan = load_raw(write_ismrmrd(tmp_path / 'b.h5', both))
    assert scan.shape == (32, 48, 2, 2)
    assert np.allclose(scan.data[..., 1], 3 * scan.data[..., 0], atol=1e-4)
    both = lines(k, contrast=0) + lines(0.5 * k, contrast=1)
    write_ismrmrd(tmp_path / 'c.h5', both)
    got = cli('noise', tmp_path / 'c.h5')
    assert got.code == 2 and '2 contrasts (echoes [0, 1])' in got.err
    second = load_ismrmrd(tmp_path / 'c.h5', contrast=1).kspace
    assert np.allclose(second[0], 0.5 * k, atol=1e-4)
    with pytest.raises(InputError, match='no contrast 2'):
        load_ismrmrd(tmp_path / 'c.h5', contrast=2)


def test_three_dimensions_with_oversampled_partitions(tmp_path):
    im = torch.zeros(12, 48, 32)
    im[2:10] = picture(48, 32, 8)
    padded = torch.nn.functional.pad(coil_maps((48, 32), COILS) * im[:, None], (0, 0, 24, 24))
    k = fftnc(padded, (0, 2, 3)).numpy()
    made = [
        acquisition(k[z, :, :, y], kspace_encode_step_1=y, kspace_encode_step_2=z)
        for z in range(12)
        for y in range(32)
    ]
    xml = header((96, 32, 12), (48, 32, 8), (480, 128, 36), (240, 128, 24), 32, steps_2=12)
    scan = load_raw(write_ismrmrd(tmp_path / 'a.h5', made, xml))
    assert scan.shape == (32, 48, 8) and np.allclose(scan.voxel_size, (4, 5, 3))
    upright = picture(48, 32, 8).flip(1).permute(2, 1, 0).numpy()
    assert np.abs(scan.data - upright).max() < 0.02 * upright.max()


def test_zero_filled_lines_and_an_interpolated_matrix(tmp_path):
    k = oversampled(picture(48, 32)).numpy()[..., 4:28]
    xml = header((96, 32, 1), (64, 64, 1), (480, 128, 4), (240, 128, 4), 24)
    scan = load_raw(write_ismrmrd(tmp_path / 'a.h5', lines(k), xml))
    assert scan.shape == (24, 48, 2) and np.allclose(scan.voxel_size, (128 / 24, 5, 4))
    assert 'left out' in scan.notes[-1]


def test_slices_lie_where_their_positions_say(tmp_path):
    "Slice numbers in the order of acquisition: 0, 2, 1, 3"
    k = oversampled(picture(48, 32, 4)).numpy()
    for name, height in dict(a=(0, 6, 12, 18), b=(0, 12, 6, 18)).items():
        made = lines(k)
        for a in made:
            a.position[2] = height[a.idx.slice]
        raw = load_ismrmrd(write_ismrmrd(tmp_path / f'{name}.h5', made))
        assert raw.voxel_size == (4, 5, 6)
        at = np.argsort(height)
        assert np.allclose(raw.kspace[0], k[at]) or np.allclose(raw.kspace[0], k[at[::-1]])
        assert ('sorted by their positions' in ' '.join(raw.notes)) == (name == 'b')


K = oversampled(picture(48, 32)).numpy()
REVERSED = [acquisition(K[0, :, :, 0], [ismrmrd.ACQ_IS_REVERSE])]
BAD = dict(
    every_second=(lambda: [a for a in lines(K) if a.idx.kspace_encode_step_1 % 2], WIDE, 'under'),
    one_missing=(lambda: lines(K)[1:-1] + lines(K)[40:41], WIDE, 'undersampled'),
    twice=(lambda: lines(K) + lines(K)[5:6], WIDE, 'a line twice'),
    radial=(lambda: lines(K), WIDE.replace('cartesian', 'radial'), 'a radial trajectory'),
    epi=(lambda: lines(K) + REVERSED, WIDE, 'reverse'),
    half_echo=(lambda: [acquisition(K[0, :, :, 0], centre=20)], WIDE, 'partial readout'),
    cardiac=(lambda: lines(K) + lines(K, phase=1), WIDE, 'cardiac'),
    other_length=(lambda: lines(K[:, :, :80]), WIDE, 'another number'),
    lengths=(lambda: lines(K) + lines(K[:, :, :80]), WIDE, 'several lengths'),
    only_noise=(
        lambda: [acquisition(K[0, :, :, 0], [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])],
        WIDE,
        'no line',
    ),
    nothing=(list, WIDE, 'neither'),
    nan=(lambda: lines(K * np.nan), WIDE, 'NaN'),
    zero=(lambda: lines(K * 0), WIDE, 'all zero'),
    word=(lambda: lines(K), WIDE.replace('<x>96</x>', '<x>many</x>'), "'many'"),
    negative=(lambda: lines(K), WIDE.replace('<y>32</y>', '<y>-32</y>'), "'-32'"),
    wide=(lambda: lines(K), WIDE.replace('<y>32</y>', '<y>900000</y>', 1), '50 times'),
    not_xml=(lambda: lines(K), 'hello', 'not XML'),
)


@pytest.mark.parametrize('kind', BAD)
def test_what_a_fourier_transform_does_not_reconstruct(cli, tmp_path, kind):
    make, xml, said = BAD[kind]
    write_ismrmrd(tmp_path / 'a.h5', make(), xml)
    got = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'blur')
    assert got.code == 2 and got.err.count('\n') == 1 and said in got.err, got.err
    assert not (tmp_path / 'o.nii.gz').exists()


def test_ismrmrd_through_a_command_and_without_its_package(cli, tmp_path, monkeypatch):
    write_ismrmrd(tmp_path / 'a.h5', lines(K))
    got = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'identity')
    assert got.code == 0 and Scan.load(tmp_path / 'o.nii.gz').shape == (32, 48, 2), got.err
    monkeypatch.setitem(sys.modules, 'ismrmrd', None)
    got = cli('noise', tmp_path / 'a.h5')
    assert got.code == 2 and "pip install 'mri_diffusion[raw]'" in got.err


def external(f, path):
    with h5py.File(path.with_name('other.h5'), 'w') as g:
        g['kspace'] = K
    f['kspace'] = h5py.ExternalLink('other.h5', 'kspace')


def soft(f, path):
    f['there'] = K
    f['kspace'] = h5py.SoftLink('/there')


def stored_elsewhere(f, path):
    path.with_name('bytes').write_bytes(K.tobytes())
    f.create_dataset(
        'kspace', K.shape, K.dtype, external=[(str(path.with_name('bytes')), 0, K.nbytes)]
    )


def virtual(f, path):
    with h5py.File(path.with_name('other.h5'), 'w') as g:
        g['kspace'] = K
    layout = h5py.VirtualLayout(K.shape, K.dtype)
    layout[:] = h5py.VirtualSource(path.with_name('other.h5'), 'kspace', K.shape)
    f.create_virtual_dataset('kspace', layout)


def whole(f, k=K, header=WIDE):
    f['kspace'], f['ismrmrd_header'] = k, header


HOSTILE = dict(
    external_link=(external, 'is a link'),
    soft_link=(soft, 'is a link'),
    dangling=(lambda f, p: f.__setitem__('kspace', h5py.SoftLink('/no')), 'is a link'),
    external_storage=(stored_elsewhere, 'other files'),
    virtual=(virtual, 'other files'),
    unwritten=(
        lambda f, p: f.create_dataset('kspace', (4000, 4000, 4000), 'c8', chunks=(1, 64, 64)),
        '50 times',
    ),
    group=(lambda f, p: f.create_group('kspace/deeper'), 'not a data set'),
    strings=(lambda f, p: f.__setitem__('kspace', ['a', 'b']), 'give complex'),
    real=(lambda f, p: f.__setitem__('kspace', K.real), 'give complex'),
    scalar=(lambda f, p: f.__setitem__('kspace', 1j), 'give complex'),
    none=(lambda f, p: f.__setitem__('kspace', h5py.Empty('c8')), 'give complex'),
    two=(lambda f, p: f.__setitem__('kspace', K[0, 0]), 'give complex'),
    nan=(lambda f, p: whole(f, K * np.nan), 'NaN'),
    huge_values=(lambda f, p: whole(f, K.astype(complex) * 1e300), 'NaN or Inf'),
    zero=(lambda f, p: whole(f, 0 * K), 'all zero'),
    header_of_numbers=(lambda f, p: whole(f, header=[1.0, 2]), 'not a text'),
    header_of_nothing=(lambda f, p: whole(f, header='<a><b>'), 'not XML'),
    header_of_words=(lambda f, p: whole(f, header=WIDE.replace('>128<', '>big<')), "'big'"),
    header_of_nan=(lambda f, p: whole(f, header=WIDE.replace('>128<', '>nan<')), "'nan'"),
    header_of_zero=(lambda f, p: whole(f, header=WIDE.replace('>48<', '>0<')), "'0'"),
    header_is_a_group=(
        lambda f, p: (f.__setitem__('kspace', K), f.create_group('ismrmrd_header')),
        'not a data set',
    ),
    empty=(lambda f, p: None, 'neither'),
    words_for_lines=(
        lambda f, p: (f.__setitem__('dataset/data', ['a']), f.__setitem__('dataset/xml', [b'x'])),
        'no acquisitions',
    ),
)


@pytest.mark.parametrize('kind', HOSTILE)
def test_hdf5_is_looked_at_before_it_is_read(cli, tmp_path, kind, recwarn):
    make, said = HOSTILE[kind]
    with h5py.File(tmp_path / 'a.h5', 'w') as f:
        make(f, tmp_path / 'a.h5')
    got = cli('noise', tmp_path / 'a.h5')
    assert got.code == 2 and got.err.count('\n') == 1 and said in got.err, got.err
    assert not got.out and not recwarn.list


def test_odd_attributes_do_no_harm(tmp_path):
    odd = dict(patient_id='x', arr=np.arange(3), none=h5py.Empty('f4'), words=['a', 'b'])
    path = write_kspace(tmp_path / 'a.h5', torch.from_numpy(K), WIDE, **odd)
    assert load_raw(path).shape == (32, 48, 2)
    assert not load_raw(path).notes
    bare = write_kspace(tmp_path / 'b.h5', torch.from_numpy(K))
    assert 'no field of view' in load_raw(bare).notes[0]


def test_a_centre_of_zero_means_that_it_was_not_said(fast, cli, tmp_path):
    k = oversampled(picture(48, 32)).numpy()
    said = load_ismrmrd(write_ismrmrd(tmp_path / 'said.h5', lines(k)))
    raw = load_ismrmrd(write_ismrmrd(tmp_path / 'a.h5', lines(k, centre=0)))
    assert np.array_equal(raw.images().data, said.images().data)
    assert not [n for n in said.notes if 'center_sample' in n]
    assert 'the echo is taken at sample 48 of 96' in ' '.join(raw.notes)
    got = cli('denoise', tmp_path / 'a.h5', tmp_path / 'o.nii.gz', '--method', 'identity')
    assert got.code == 0 and 'center_sample is 0 in every readout' in got.err


def test_a_readout_that_begins_at_its_echo_is_partial(tmp_path):
    k = oversampled(picture(48, 32)).numpy()
    xml = WIDE.replace('<x>96</x>', '<x>48</x>', 1)
    for name, cut in dict(half=k[:, :, 48:], quarter=k[:, :, 24:72][:, :, 12:]).items():
        n = cut.shape[2]
        path = write_ismrmrd(
            tmp_path / f'{name}.h5',
            lines(cut, centre=0),
            xml.replace('<x>48</x>', f'<x>{n}</x>', 1),
        )
        with pytest.raises(InputError, match='partial readout'):
            load_ismrmrd(path)
    mixed = [*lines(k, centre=0)[1:], *lines(k, centre=7)[:1]]
    with pytest.raises(InputError, match='its echo is at sample 0 of 96'):
        load_ismrmrd(write_ismrmrd(tmp_path / 'mixed.h5', mixed))
