"Complex data from files, arrays and BIDS folders to a denoised image, and what is refused."

import json
import os
import signal

import nibabel as nib
import numpy as np
import pytest

import mri_diffusion as mri
from mri_diffusion.app.batch import batch_scans
from mri_diffusion.app.cli import main
from mri_diffusion.app.jobs import denoise_scan
from mri_diffusion.core import InputError
from mri_diffusion.noise.phase import demodulate, smooth_phase
from mri_diffusion.phantoms.heads import shared_data
from mri_diffusion.scans.bids import sort_bids
from mri_diffusion.scans.complex import ComplexScan, to_radians
from mri_diffusion.scans.nifti import Scan

SHAPE, SIGMA = (32, 36, 6), 10.0
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def truth(volumes=0):
    "A bright and a dark half in empty space, and its smooth phase"
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    s = np.where(np.hypot(x, y) < 0.8, np.where(x > 0, 100.0, 20.0), 0.0)
    phi = 4 * x + 2 * y**2 + z
    if volumes:
        scale = 1 - 0.5 * np.arange(volumes) / volumes
        return s[..., None] * scale, phi[..., None] * (1 + np.arange(volumes)) / volumes
    return s, phi


def far_from_signal():
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    return np.hypot(x, y) > 0.95


def noisy(volumes=0, seed=0):
    s, phi = truth(volumes)
    a = np.random.default_rng(seed).normal(size=(2, *s.shape)) * SIGMA
    return (s * np.exp(1j * phi) + a[0] + 1j * a[1]).astype(np.complex64)


@pytest.fixture
def pair(tmp_path):
    "Magnitude and phase (-4096 to 4095) of one noisy volume, named as BIDS does"
    z, func = noisy(), tmp_path / 'in'
    func.mkdir()
    mag, phase = (func / f'sub-01_part-{p}_T2starw.nii.gz' for p in ('mag', 'phase'))
    Scan.from_array(abs(z), AFFINE).save(mag, sidecar={'EchoTime': 0.03})
    Scan.from_array(np.round(np.angle(z) / np.pi * 4095), AFFINE).save(phase)
    return mag, phase, z


def line(f, *args, **kwargs):
    with pytest.raises(InputError) as e:
        f(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)


# Moments


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_noise_alone_stays_noise(seed):
    a = np.random.default_rng(seed).normal(size=(2, 64, 64, 16))
    z = (a[0] + 1j * a[1]).astype(np.complex64)
    turn, *_ = smooth_phase(z, 1.0)
    real = (z * turn.conj()).real
    assert abs(real.mean()) < 4 / np.sqrt(real.size) and abs(real.std() - 1) < 0.02


def test_channels_have_the_moments_of_truth_and_noise():
    s, _ = truth(8)
    found = demodulate(ComplexScan.from_array(noisy(8)))
    error = found.real.data - s
    assert abs(error.mean()) < 0.02 * SIGMA and abs(error.std() / SIGMA - 1) < 0.05
    assert abs(found.imaginary.data.mean()) < 0.05 * SIGMA
    assert abs(found.sigma / SIGMA - 1) < 0.05
    assert found.real.kind == found.imaginary.kind == 'signed'


def test_wraps_do_not_matter():
    z = noisy()
    turned = z * np.exp(1j * 3.0).astype(np.complex64)
    a, b = (demodulate(ComplexScan.from_array(v)).real.data for v in (z, turned))
    assert (abs(a - b) > 1e-2).mean() < 0.02  # rounding may change the window of a voxel


# From Python


@pytest.mark.parametrize('method', ['nlmeans', 'unet', 'diffusion'])
def test_floor_is_gone(method):
    s, _ = truth()
    z, dark = noisy(), far_from_signal()
    made = {p: mri.denoise(z, method=method, part=p, quiet=True) for p in ('magnitude', 'real')}
    plain = mri.denoise(abs(z), SIGMA, method=method, quiet=True)
    floor = {k: r.denoised.data[dark].mean() / SIGMA for k, r in made.items()}
    assert abs(floor['real']) < 0.05 and 0 <= floor['magnitude'] < 0.6
    assert made['real'].denoised.data.min() < 0 and made['real'].noisy.kind == 'signed'
    inside = s == 20
    bias = {k: abs((r.denoised.data - s)[inside].mean()) / SIGMA for k, r in made.items()}
    assert max(bias.values()) < 0.35
    assert abs(plain.level / SIGMA - 1) < 1e-6 and abs(made['real'].level / SIGMA - 1) < 0.1


@pytest.mark.parametrize('method', ['mppca', 'wiener', 'unet_pca'])
def test_series(method):
    s, _ = truth(12)
    z = noisy(12)
    result = mri.denoise(z, method=method, quiet=True)
    rms = lambda x: np.sqrt(((x - s) ** 2).mean())
    assert result.denoised.shape == z.shape and rms(result.denoised.data) < 0.6 * rms(abs(z))
    assert result.complex.shape == z.shape and np.iscomplexobj(result.complex.data)
    assert np.allclose(abs(result.complex.data), result.denoised.data, atol=0.01)


def test_a_phase_too_fast_is_said():
    "A voxel whose phase is against that of its neighbours is lost in the real channel, with a note"
    s, phi = truth()
    z = noisy()
    lost = 'changes too fast'
    assert lost not in ' '.join(mri.denoise(z, method='identity', part='real').meta['notes'])
    z[22:24, 17:19, 2] *= 1j
    notes = ' '.join(mri.denoise(z, method='identity', part='real').meta['notes'])
    assert lost in notes and 'in 4 voxels' in notes
    assert lost not in ' '.join(mri.denoise(z, method='identity').meta['notes'])


def test_every_way_in_is_the_same(pair):
    mag, phase, z = pair
    scan = Scan.load(mag)
    radians, _ = to_radians(Scan.from_array(np.round(np.angle(z) / np.pi * 4095)).data)
    ways = [
        mri.denoise(scan, method='nlmeans', phase=radians),
        mri.denoise(scan, method='nlmeans', phase=phase),
        mri.denoise(ComplexScan.load(mag, phase), method='nlmeans'),
        mri.denoise(ComplexScan.load(mag, phase).data, method='nlmeans'),
    ]
    for other in ways[1:]:
        assert np.allclose(ways[0].denoised.data, other.denoised.data, atol=1e-3)


def test_a_level_known_beforehand_is_used():
    g = np.linspace(0.5, 2, SHAPE[0])[:, None, None] * np.ones(SHAPE) * SIGMA
    scan = ComplexScan.from_array(noisy(), sigma=g)
    result = mri.denoise(scan, method='nlmeans')
    assert np.allclose(result.sigma, g) and result.meta['sigma_from'] == 'given by the caller'
    assert 'sigma of shape' in line(
        mri.denoise, ComplexScan.from_array(noisy(), sigma=g[:5]), method='nlmeans'
    )


def test_outside_the_mask_nothing_changes():
    z, mask = noisy(), truth()[0] > 0
    result = mri.denoise(z, mask=mask, method='nlmeans', part='complex')
    assert np.allclose(result.complex.data[~mask], z[~mask], atol=1e-3)
    assert not np.allclose(result.complex.data[mask], z[mask], atol=1e-1)


def test_methods_are_told_what_the_channel_is():
    "A real channel of high SNR has no negative value, and is none the less no magnitude"
    x = 1000 + np.random.default_rng(0).normal(size=(16, 16, 6, 12)).astype(np.float32)
    scan = ComplexScan.from_array(x + 0j).channel(x)
    assert scan.kind == 'signed' and Scan.from_array(x).kind == 'magnitude'
    told = []

    def denoise(data, sigma, signed=None, **_):
        told.append(signed)
        return dict(denoised=data)

    from mri_diffusion.app.denoiser import Denoiser
    from mri_diffusion.methods.method import Method

    one = Denoiser('identity')
    one.method = Method('own', 'Test', 'nothing', 'trivial', denoise)
    for s in (scan, Scan.from_array(x)):
        one.denoise(s)
    assert told == [True, False]


@pytest.mark.parametrize('unit', [1e-12, 1e12, 1e-30, 1e30])
@pytest.mark.parametrize('part', ['magnitude', 'real'])
def test_units_do_not_matter(unit, part):
    s, _ = truth()
    z = noisy() / 100
    made = [mri.denoise(v, method='unet', part=part, quiet=True) for v in (z, z * np.float32(unit))]
    for a, b in ((r.denoised.data, r.std) for r in made[:1]):
        assert np.allclose(made[1].denoised.data / unit, a, atol=2e-3)
        assert (b is None) == (made[1].std is None)
    assert abs(made[1].level / unit / made[0].level - 1) < 1e-3


def test_std_of_a_size_has_no_unit():
    from mri_diffusion.app.complex import _std_of_size

    a, b = np.float32([[[3, 0, 0]]]), np.float32([[[4, 5, 0]]])
    for unit in (1, 1e-25, 1e25):
        a1, b1 = (v * np.float32(unit) for v in (a, b))
        got = _std_of_size(a1, b1, np.full_like(a, unit), np.full_like(a, 2 * unit)) / unit
        expected = [np.sqrt((9 + 16 * 4) / 25), 2, 1]
        assert np.allclose(got.ravel(), expected, rtol=1e-5)


# The command


def test_command_writes_each_part(pair, tmp_path):
    mag, phase, z = pair
    how = ['--method', 'nlmeans', '--quiet']
    for part in ('magnitude', 'real', 'complex'):
        out, more = tmp_path / f'{part}.nii.gz', []
        for k in ('residual', 'noise-map'):
            more += [f'--{k}', str(tmp_path / f'{part}_{k}.nii.gz')]
        more += ['--picture', str(tmp_path / f'{part}.png')]
        assert main(['denoise', str(mag), str(out), '--part', part, *how, *more]) == 0
        img, record = nib.load(out), json.loads((tmp_path / f'{part}.json').read_text())
        assert np.allclose(img.affine, AFFINE) and record['EchoTime'] == 0.03
        assert record['Part'] == part and (tmp_path / f'{part}.png').stat().st_size > 1000
        removed = nib.load(tmp_path / f'{part}_residual.nii.gz')
        kind = np.complex64 if part == 'complex' else np.float32
        assert img.get_data_dtype() == removed.get_data_dtype() == kind
        if part == 'complex':
            total = np.asarray(img.dataobj) + np.asarray(removed.dataobj)
            assert np.allclose(total, z, atol=0.5)
        if part == 'real':
            assert record['DataKind'] == 'signed' and Scan.load(out).kind == 'signed'
    again = ['denoise', str(mag), str(tmp_path / 'complex.nii.gz'), '--part', 'complex', *how]
    assert main(again) == 0  # has finished before
    assert main([*again[:-4], 'real', *how]) == 2  # was made with another part


def test_command_takes_complex_numbers(tmp_path):
    for kind in (np.complex64, np.complex128):
        path, out = tmp_path / f'{kind.__name__}.nii', tmp_path / f'{kind.__name__}_out.nii.gz'
        nib.save(nib.Nifti1Image(noisy().astype(kind), AFFINE), path)
        assert main(['denoise', str(path), str(out), '--method', 'nlmeans', '--quiet']) == 0
        assert nib.load(out).get_data_dtype() == np.float32
    a, b = (nib.load(tmp_path / f'complex{n}_out.nii.gz').get_fdata() for n in (64, 128))
    assert np.array_equal(a, b)


def test_pair_is_found_and_said(pair, tmp_path, capsys):
    mag, phase, _ = pair
    result = denoise_scan(mag, tmp_path / 'a.nii.gz', method='nlmeans')
    assert any('taken as its phase (BIDS)' in n for n in result.meta['notes'])
    alone = denoise_scan(mag, tmp_path / 'b.nii.gz', method='nlmeans', phase='none')
    assert 'part' not in alone.meta and alone.complex is None
    named = denoise_scan(mag, tmp_path / 'c.nii.gz', method='nlmeans', phase=phase)
    assert np.array_equal(named.denoised.data, result.denoised.data)
    Scan.from_array(np.random.default_rng(0).normal(size=SHAPE) ** 2 * 50, AFFINE).save(phase, True)
    other = denoise_scan(mag, tmp_path / 'd.nii.gz', method='nlmeans')
    assert any('phase of its name is not used' in n for n in other.meta['notes'])
    assert np.array_equal(other.denoised.data, alone.denoised.data)


def test_batch_pairs_magnitude_and_phase(tmp_path):
    root = tmp_path / 'bids'
    for n, has_phase in (('01', True), ('02', False)):
        folder = root / f'sub-{n}' / 'anat'
        folder.mkdir(parents=True)
        z = noisy(seed=int(n))
        Scan.from_array(abs(z), AFFINE).save(folder / f'sub-{n}_part-mag_T2starw.nii.gz')
        if has_phase:
            phase = folder / f'sub-{n}_part-phase_T2starw.nii.gz'
            Scan.from_array(np.angle(z), AFFINE).save(phase, sidecar={'Units': 'rad'})
    scans, others = sort_bids(root)
    assert len(scans) == 2 and not others and [bool(s.phase) for s in scans] == [True, False]
    out = tmp_path / 'out'
    run = ['batch', str(root), str(out), 'participant', '--method', 'nlmeans', '--quiet']
    assert main(run) == 0
    made = out / 'sub-01' / 'anat' / 'sub-01_part-mag_desc-denoised_T2starw'
    record = json.loads(made.with_suffix('.json').read_text())
    assert record['Part'] == 'magnitude'
    other = json.loads((out / 'sub-02/anat/sub-02_part-mag_desc-denoised_T2starw.json').read_text())
    assert 'Part' not in other
    real = tmp_path / 'real'
    assert main([*run[:2], str(real), *run[3:], '--part', 'real']) == 2  # 02 has no phase
    assert (real / 'sub-01/anat/sub-01_part-real_desc-denoised_T2starw.nii.gz').exists()
    assert not list(real.glob('sub-02/anat/*.nii.gz'))


def test_a_phase_laid_beside_later_is_another_request(tmp_path):
    "It costs the row of its scan and no other, and one that is taken away does so too"
    root, out = tmp_path / 'bids', tmp_path / 'out'
    names = [root / f'sub-{n}' / 'anat' / f'sub-{n}_part-mag_T2starw.nii.gz' for n in ('01', '02')]
    for k, p in enumerate(names):
        Scan.from_array(abs(noisy(seed=k)), AFFINE).save(p)
    run = lambda **how: [
        (r['status'], r['message']) for r in batch_scans(root, out, 'participant', 'blur', **how)
    ]
    assert run() == [('done', None)] * 2 and run() == [('skipped', None)] * 2
    phase = names[0].with_name(names[0].name.replace('part-mag', 'part-phase'))
    Scan.from_array(np.angle(noisy(seed=0)), AFFINE).save(phase, sidecar={'Units': 'rad'})
    (status, said), other = run()
    assert status == 'failed' and other == ('skipped', None)
    assert f'phase None, not {phase.name}; use another folder, or --force' in said
    record = out / 'sub-01' / 'anat' / 'sub-01_part-mag_desc-denoised_T2starw.json'
    assert 'Part' not in json.loads(record.read_text())
    assert run(force=True) == [('done', None)] * 2 and run() == [('skipped', None)] * 2
    assert 'Part' in json.loads(record.read_text())
    phase.unlink()
    assert f'phase {phase.name}, not None' in run()[0][1]
    field = batch_scans(root, tmp_path / 'f', 'participant', 'blur', bias_field='correct')
    Scan.from_array(np.angle(noisy(seed=0)), AFFINE).save(phase, True, {'Units': 'rad'})
    again = batch_scans(root, tmp_path / 'f', 'participant', 'blur', bias_field='correct')
    assert [r['status'] for r in field + again] == ['done'] * 2 + ['skipped'] * 2  # No phase used


# Methods that learn from the scan itself

LEARNERS = dict(
    r2r=dict(ensemble=False), n2n=dict(repeats='all'), noise2score={}, diffdenoise={}, dip={}
)


@pytest.mark.parametrize('method', LEARNERS)
def test_one_training_gives_every_part(method):
    "The real channel is that of --part real, and the imaginary one loses noise too"
    z = noisy(6 if method in ('r2r', 'n2n') else 0)
    d = mri.Denoiser(method, 'tiny', quiet=True, **LEARNERS[method])
    made = {part: d.denoise(z, part=part) for part in ('magnitude', 'real')}
    whole, real = made['magnitude'], made['real']
    found = demodulate(ComplexScan.from_array(z))
    back = whole.complex.data * found.turn.conj()
    assert np.allclose(back.real, real.denoised.data, atol=1e-2)
    assert np.allclose(abs(back), whole.denoised.data, atol=1e-2)
    assert whole.level == real.level and abs(whole.level / SIGMA - 1) < 0.1
    assert whole.meta['sigma_from'] == 'measured in the imaginary channel'
    assert (whole.std is None) == (real.std is None) == (not d.method.gives_std)
    assert whole.std is None or whole.std.shape == whole.denoised.shape
    assert back.imag.std() < 0.98 * found.imaginary.data.std()  # After a dozen steps
    said = [n for n in whole.meta['notes'] if n.startswith('imaginary channel')]
    own = 'weights of step' if method == 'dip' else 'learned from the real channel'
    assert len(said) >= 1 and own in said[0]


def test_a_real_channel_is_told_to_the_method():
    "Of high SNR and without air it has no negative value: nothing is taken off as Rician bias"
    x = 200 + SIGMA * np.random.default_rng(0).normal(size=(24, 24, 8)).astype(np.float32)
    scan = ComplexScan.from_array(x + 0j).channel(x)
    for method in ('noise2score', 'corruption2self', 'diffdenoise', 'dip'):
        d = mri.Denoiser(method, 'tiny', quiet=True).fit(scan, sigma=SIGMA)
        assert d.learned['kind'] == 'additive' and d.learned['signed'] is True


def test_fit_then_denoise_is_one_call():
    z = ComplexScan.from_array(noisy())
    d = mri.Denoiser('noise2score', 'tiny', quiet=True).fit(z)
    apart, one = d.denoise(z), mri.denoise(z, method='noise2score', preset='tiny', quiet=True)
    assert np.array_equal(apart.complex.data, one.complex.data)
    assert not any('not this scan' in n for n in apart.meta['notes'])
    from_magnitude = mri.Denoiser('noise2score', 'tiny', quiet=True).fit(z.magnitude)
    assert 'learned from a magnitude' in line(from_magnitude.denoise, z)
    assert 'learned from a real channel' in line(d.denoise, z.magnitude)
    assert 'together' in line(d.fit, [z, z.magnitude])


def test_interrupted_or_in_two_commands_the_same_bits(pair, tmp_path, monkeypatch, capsys):
    from mri_diffusion.methods import selfsup

    mag, phase, z = pair
    how = ['--method', 'noise2score', '--preset', 'tiny', '--quiet']
    run = lambda name, *more: main(['denoise', str(mag), str(tmp_path / f'{name}.nii.gz'), *more])
    read = lambda name: np.asarray(nib.load(tmp_path / f'{name}.nii.gz').dataobj)
    assert run('whole', *how) == 0
    loss, steps = selfsup.residual_score, []

    def stops(*args):
        steps.append(1)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*args)

    monkeypatch.setattr(selfsup, 'residual_score', stops)
    assert run('cut', *how) == 130 and 'after step 4' in capsys.readouterr().err
    assert not (tmp_path / 'cut.nii.gz').exists()
    assert run('cut', *how) == 0 and len(steps) == 12
    model = str(tmp_path / 'model')
    train = ['train', 'noise2score', str(mag), '--out', model, '--preset', 'tiny', '--quiet']
    assert main(train) == 0 and len(steps) == 24
    assert main(train) == 0 and run('two', '--model', model, '--quiet') == 0
    assert run('real', '--model', model, '--part', 'real', '--quiet') == 0 and len(steps) == 24
    assert np.array_equal(read('cut'), read('whole')) and np.array_equal(read('two'), read('whole'))
    records = [
        json.loads((tmp_path / m / 'training' / 'settings.json').read_text()) | dict(finished=None)
        for m in ('cut_noise2score', 'model')
    ]
    assert records[0] == records[1]  # Either command goes on with what the other began
    no_phase = ['--phase', 'none', '--model', str(tmp_path / 'm')]
    assert main([*train[:4], str(tmp_path / 'm'), *train[5:], '--phase', 'none']) == 0
    assert run('plain', *no_phase, '--quiet') == 0
    capsys.readouterr()
    assert run('found', '--model', str(tmp_path / 'm')) == 0  # Its phase was only found
    assert 'only the magnitude is used' in capsys.readouterr().err
    assert np.array_equal(read('found'), read('plain'))
    named = ['--phase', str(phase), '--model', str(tmp_path / 'm')]
    assert run('named', *named) == 2 and 'train it on complex data' in capsys.readouterr().err


def test_dip_keeps_a_network_of_each_channel(pair, tmp_path):
    mag, _, z = pair
    d = lambda: mri.Denoiser('dip', 'tiny', quiet=True, steps=4)
    first = d().denoise(z, model=tmp_path / 'm')
    assert (tmp_path / 'm' / 'imaginary' / 'model.safetensors').is_file()
    again = d().denoise(z, model=tmp_path / 'm')
    assert np.array_equal(first.complex.data, again.complex.data)


def test_ddm2_takes_magnitudes_only(tmp_path):
    z = noisy(4)
    assert 'divides each volume by its maximum' in line(mri.denoise, z, method='ddm2')
    assert 'divides each volume' in line(mri.denoise, z, method='ddm2', part='real')
    assert 'divides each volume' in line(mri.Denoiser('ddm2', 'tiny').fit, z)


def test_shared_models_keep_complex_scans_and_magnitudes_apart(tmp_path):
    root, out = tmp_path / 'bids', tmp_path / 'out'
    for n, has_phase in (('01', True), ('02', True), ('03', False)):
        z, folder = noisy(seed=int(n)), root / f'sub-{n}' / 'anat'
        mag = folder / f'sub-{n}_part-mag_T2starw.nii.gz'
        Scan.from_array(abs(z), AFFINE).save(mag)
        if has_phase:
            phase = mag.with_name(mag.name.replace('part-mag', 'part-phase'))
            Scan.from_array(np.angle(z), AFFINE).save(phase, sidecar={'Units': 'rad'})
    rows = batch_scans(root, out, 'participant', 'noise2score', per_field=True, preset='tiny')
    assert [(r['status'], r['message']) for r in rows] == [('done', None)] * 3
    names = [p.name for p in sorted((out / 'models').iterdir())]
    assert names == ['field-unknown_T2starw', 'field-unknown_T2starw_complex']
    trained = [out / 'models' / n / 'training' / 'settings.json' for n in names]
    assert [len(json.loads(p.read_text())['noisy']) for p in trained] == [1, 2]


# Bad input


def broken(pair, tmp_path, values, name='bad.nii.gz', affine=AFFINE):
    path = tmp_path / name
    nib.save(nib.Nifti1Image(np.asarray(values, np.float32), affine), path)
    return path


@pytest.mark.parametrize(
    'values, said',
    [
        (lambda p: p[:20], 'shape (20, 36, 6), but the magnitude has (32, 36, 6)'),
        (lambda p: np.full_like(p, 0.5), 'the phase is constant'),
        (lambda p: np.where(p > 3, np.nan, p), 'not finite'),
        (lambda p: abs(p) ** 3 * 50, 'not recognised'),
        (lambda p: p**5, 'not recognised'),
    ],
)
def test_bad_phase(pair, tmp_path, values, said):
    mag, _, z = pair
    out = tmp_path / 'o.nii.gz'
    phase = broken(pair, tmp_path, values(np.angle(z)))
    message = line(denoise_scan, mag, out, method='nlmeans', phase=phase)
    assert said in message and str(phase) in message and not out.exists()


def test_a_sidecar_that_contradicts_the_values(pair, tmp_path):
    "Degrees of a circle of radians, radians of a circle of degrees: neither is taken"
    phi = np.angle(pair[2])
    for said, values in (('deg', phi), ('rad', np.degrees(phi))):
        assert 'not recognised' in line(to_radians, values, 'p.nii.gz', {'Units': said})
    for said, values in (('deg', np.degrees(phi)), ('rad', phi)):
        assert np.allclose(to_radians(values, 'p.nii.gz', {'Units': said})[0], phi, atol=1e-5)


def test_bad_pairs(pair, tmp_path):
    mag, phase, z = pair
    out, how = tmp_path / 'o.nii.gz', dict(method='nlmeans')
    assert 'magnitude itself' in line(denoise_scan, mag, out, phase=mag, **how)
    assert 'a phase image' in line(denoise_scan, phase, out, phase=phase, **how)
    moved = broken(pair, tmp_path, np.angle(z), 'moved.nii.gz', np.diag([2, 2, 4, 1]))
    assert 'affine' in line(denoise_scan, mag, out, phase=moved, **how)
    (tmp_path / 'p.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    assert 'NIfTI only' in line(denoise_scan, mag, out, phase=tmp_path / 'p.png', **how)
    assert 'no such file' in line(denoise_scan, mag, out, phase=tmp_path / 'no.nii.gz', **how)
    one = tmp_path / 'one.nii.gz'
    ComplexScan.from_array(z, AFFINE).save(one)
    assert 'holds its phase' in line(denoise_scan, one, out, phase=phase, **how)
    real = tmp_path / 'real.nii.gz'
    Scan.from_array(z.real, AFFINE).save(real, sidecar={'DataKind': 'signed'})
    assert 'one real channel' in line(denoise_scan, real, out, phase=phase, **how)
    assert not out.exists() and not (tmp_path / 'o.json').exists()


def test_bad_parts(pair, tmp_path):
    mag, _, z = pair
    out, plain = tmp_path / 'o.nii.gz', tmp_path / 'plain.nii.gz'
    Scan.from_array(abs(z), AFFINE).save(plain)
    assert 'has no phase' in line(denoise_scan, plain, out, method='nlmeans', part='real')
    assert 'unknown' in line(denoise_scan, mag, out, method='nlmeans', part='imag')
    wish = dict(method='nlmeans', part='complex', bias_field='restore')
    assert '--bias-field' in line(denoise_scan, mag, out, **wish)
    assert 'complex scans' in line(mri.Denoiser('unet', 'tiny').fit, z)
    found = denoise_scan(mag, out, method='nlmeans', bias_field='correct')
    assert any('only the magnitude is used' in n for n in found.meta['notes'])


def test_bad_complex_files(tmp_path):
    flat = np.ones(SHAPE, np.complex64)
    wrong = noisy()
    wrong[3, 3, 3] = np.nan
    out = tmp_path / 'o.nii.gz'
    for values, said in ((flat, 'constant'), (wrong, 'not finite'), (flat[:, 0, 0], 'give a vol')):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / 'z.nii.gz')
        message = line(denoise_scan, tmp_path / 'z.nii.gz', out, method='nlmeans')
        assert said in message
    assert '5-D' in line(mri.denoise, np.ones((4, 4, 4, 2, 2), complex) * 1j)


# Real data


def test_real_gradient_echo(tmp_path):
    folder = shared_data('complex_gre')
    if folder is None:
        pytest.skip('no shared data')
    scan = ComplexScan.load(folder / 'mag.nii.gz', folder / 'phase.nii.gz')
    assert any('full circle' in n for n in scan.notes)
    found = demodulate(scan)
    power = lambda x: float((x.data**2).mean())
    assert power(found.imaginary) < 0.02 * power(found.real)
    assert 0.9e-5 < np.median(found.sigma) < 1.7e-5
