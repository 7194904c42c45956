"What the libraries below do with our maps and settings"

import inspect

import nbformat
import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from skimage.metrics import structural_similarity

from mri_diffusion.app.denoiser import Denoiser, load_model
from mri_diffusion.app.experiments import experiment_parameters, run_experiment
from mri_diffusion.app.jobs import denoise_scan
from mri_diffusion.app.texts import evaluation_text
from mri_diffusion.core import InputError, MriDiffusionError, generator
from mri_diffusion.judge.residual import slice_rmse
from mri_diffusion.judge.scores import evaluate, hfen, residual_stats, ssim, ssim_map
from mri_diffusion.judge.tensors import tensor_fit
from mri_diffusion.learn.risk import sure
from mri_diffusion.learn.train import fit
from mri_diffusion.methods.classical import CLASSICAL, nlmeans
from mri_diffusion.methods.registry import check_names, methods
from mri_diffusion.noise.models import add_noise
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.phantoms.heads import TISSUES, make_gradients, simulate_dmri
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def rimmed():
    "An object of 100 with a rim of 12.4, noise 10; a map of sigma that is 0 in the rim"
    clean = np.full((28, 28, 10), 12.4, np.float32)
    clean[6:-6, 6:-6, 2:-2] = 100
    level = np.where(clean > 50, 10.0, 0.0)
    return np.asarray(add_noise(clean, 10.0, gen=generator(0)), np.float32), level


@pytest.mark.parametrize('variant', ['classic', 'blockwise'])
def test_nlmeans_leaves_voxels_whose_sigma_is_zero(rimmed, variant):
    noisy, level = rimmed
    noisy, level = noisy.copy(), level.copy()
    noisy.flags.writeable = level.flags.writeable = False
    found, rim = nlmeans(noisy, level, variant=variant), level == 0
    assert np.array_equal(found[rim], noisy[rim])
    assert (found[~rim] != noisy[~rim]).all()
    everywhere = nlmeans(noisy, 10.0, variant=variant)
    assert abs(everywhere[rim].mean() - noisy[rim].mean()) > 3


@pytest.mark.parametrize('name', [k for k, m in CLASSICAL.items() if 3 in m['dims']])
def test_every_filter_leaves_voxels_whose_sigma_is_zero(rimmed, name):
    noisy, level = rimmed
    result = Denoiser(name, quiet=True).denoise(noisy, sigma=level)
    rim, share = level == 0, f'{(level == 0).mean():.0%}'
    assert np.array_equal(result.denoised.data[rim], noisy[rim])
    assert any(n.startswith(f'sigma is 0 in {share}') for n in result.meta['notes'])


def series_of(noisy, n=8):
    return np.stack([noisy + i for i in range(n)], -1)


@pytest.mark.parametrize(
    'name', ['ddm2', 'r2r', 'diffdenoise', 'noise2score', 'corruption2self', 'mppca', 'patch2self']
)
def test_every_method_leaves_voxels_whose_sigma_is_zero(name):
    clean = np.full((20, 20, 6, 9), 100, np.float32) * np.linspace(1, 0.6, 9, dtype=np.float32)
    noisy = np.asarray(add_noise(clean, 10.0, gen=generator(0)), np.float32)
    level = np.where(np.arange(20) < 5, 0.0, 10.0)[:, None, None] * np.ones(clean.shape[:3])
    bvecs = np.random.default_rng(0).normal(size=(9, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    tables = dict(bvals=np.r_[0.0, [1000.0] * 8], bvecs=bvecs)
    data = noisy if methods()[name].dims == (4,) else noisy[..., 0]
    scan = Scan.from_array(data, **(tables if data.ndim == 4 else {}))
    result = Denoiser(name, 'tiny', quiet=True).denoise(scan, sigma=level)
    assert np.array_equal(result.denoised.data[:5], data[:5])
    assert (result.denoised.data[5:] != data[5:]).mean() > 0.8
    if result.std is not None:
        assert not result.std[:5].any()


def test_a_volume_whose_sigma_is_zero_stays(rimmed):
    series, sigma = series_of(rimmed[0], 3), np.array([10.0, 0.0, 10.0])
    found = Denoiser('nlmeans', quiet=True).denoise(series, sigma=sigma).denoised.data
    assert np.array_equal(found[..., 1], series[..., 1])
    assert (found[..., 0] != series[..., 0]).all()


def test_judges_leave_out_voxels_whose_sigma_is_zero(rimmed):
    noisy, level = rimmed
    denoised, inside = np.where(level > 0, 100, noisy), level > 0
    part = residual_stats(noisy - denoised, level)
    assert part['std'] == residual_stats(noisy - denoised, 10.0, inside)['std']
    assert np.allclose(
        slice_rmse(noisy, denoised, None, 2, level)[2:-2],
        slice_rmse(noisy, denoised, inside, 2, 10.0)[2:-2],
    )
    risk = sure(lambda y: np.where(level > 0, 100.0, y), noisy, level)
    assert abs(risk.residual - risk.value - (level**2).mean()) < 1
    with pytest.raises(InputError, match='sigma'):
        residual_stats(noisy - denoised, 0 * level)
    with pytest.raises(InputError, match='sigma'):
        sure(np.copy, noisy, 0 * level)


def test_a_map_that_an_estimator_made_is_kept_too(rimmed):
    clean = np.where(rimmed[1] > 0, 100, 12.4).astype(np.float32)
    draws = [add_noise(clean, 10.0, gen=generator(i)) for i in range(4)]
    series = np.stack(draws, -1).astype(np.float32)
    mask = clean > 50
    result = Denoiser('nlmeans', quiet=True).denoise(series, sigma=10.0 * mask)
    assert np.array_equal(result.denoised.data[~mask], series[~mask])
    level = estimate_sigma(series, 'repeats', bvals=np.zeros(4)).map(series.shape[:3])
    result = Denoiser('nlmeans', quiet=True).denoise(series, sigma=level)
    free = np.broadcast_to(level[..., None] == 0, series.shape)
    assert np.array_equal(result.denoised.data[free], series[free])


def test_nlmeans_has_no_limit_in_absolute_units(rimmed):
    noisy, _ = rimmed
    for variant in ('classic', 'blockwise'):
        usual = nlmeans(noisy, 10.0, variant=variant)
        for k in (1e-6, 1e6):
            scaled = nlmeans(noisy * np.float32(k), 10.0 * k, variant=variant) / k
            assert np.abs(scaled - usual).max() < 0.05


def test_the_variant_can_be_set():
    d = Denoiser('nlmeans', variant='blockwise')
    assert d.config['variant'] == 'blockwise'
    with pytest.raises(InputError, match="variant='fast'"):
        Denoiser('nlmeans', variant='fast').denoise(np.ones((8, 8, 8)) + np.eye(8), sigma=0.1)


@pytest.fixture(scope='module')
def fibres():
    "A noise-free series of one tissue whose FA is 0.7"
    table = make_gradients({1000: 12}, 1)
    tissue = dict.fromkeys(TISSUES, TISSUES['wm'])
    return simulate_dmri(*table, shape=(12, 12, 6), tissues=tissue)[0]


@pytest.mark.parametrize('largest', [1e-9, 1e-6, 1e-3, 1.0, 1e6])
def test_the_tensor_does_not_depend_on_the_unit_of_the_signal(fibres, largest):
    data = fibres.data * np.float32(largest / fibres.data.max())
    maps = tensor_fit(data, fibres.bvals, fibres.bvecs, fibres.mask)
    assert np.allclose(maps['FA'][fibres.mask], 0.7, atol=2e-3)
    assert np.allclose(maps['MD'][fibres.mask], 0.7e-3, rtol=2e-3)


def test_a_series_without_signal_has_no_tensor(fibres):
    with pytest.raises(InputError, match='no value above 0'):
        tensor_fit(-fibres.data, fibres.bvals, fibres.bvecs, fibres.mask)


@pytest.mark.parametrize('value', [0.3, 100, 1e5])
def test_hfen_refuses_a_constant_reference(value):
    clean = np.full((16, 16, 16), value)
    noisy = clean + value * np.random.default_rng(0).normal(size=clean.shape)
    with pytest.raises(InputError, match='clean is constant inside the mask'):
        hfen(noisy, clean)
    found = evaluate(noisy, clean)
    assert 'hfen' not in found and found['psnr'] < 1


def test_hfen_refuses_the_flat_inside_of_an_object(rimmed):
    clean = np.full((40, 40, 24), 12.0)
    clean[4:-4, 4:-4, 2:-2] = 100
    deep = np.zeros(clean.shape, bool)
    deep[14:-14, 14:-14, 11:-11] = True
    with pytest.raises(InputError, match='clean is constant inside the mask'):
        hfen(clean + 1, clean, deep)
    assert hfen(clean + 1, clean) < 1e-6


def test_ssim_beside_that_of_scikit_image_and_monai():
    rng = np.random.default_rng(0)
    clean = np.zeros((24, 24, 24), np.float32)
    clean[6:-6, 6:-6, 6:-6] = 100
    noisy = clean + rng.normal(0, 10, clean.shape).astype(np.float32)
    how = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    theirs = structural_similarity(noisy, clean, data_range=100, **how)
    both = [torch.from_numpy(x)[None, None] for x in (noisy, clean)]
    monai = float(SSIMMetric(3, data_range=100, win_size=11, kernel_sigma=1.5)(*both).mean())
    ours = ssim_map(noisy, clean, 100)[5:-5, 5:-5, 5:-5].mean()
    assert abs(ours - theirs) < 1e-3 and abs(ours - monai) < 1e-3
    assert abs(ssim(noisy, clean) - theirs) > 0.02
    text = evaluation_text(dict(evaluate(noisy, clean), mask=None))
    assert 'scikit-image and MONAI leave out 5 voxels' in text.splitlines()[-1]


@pytest.mark.parametrize('name', ['mppca', 'patch2self'])
def test_series_filters_do_not_depend_on_the_unit_of_the_signal(fibres, name):
    noisy = np.asarray(add_noise(fibres.data, 20.0, gen=generator(0)), np.float32)
    usual = CLASSICAL[name]['function'](noisy, 20.0, bvals=fibres.bvals)
    for k in (1e-6, 1e6):
        scaled = CLASSICAL[name]['function'](noisy * np.float32(k), 20.0 * k, bvals=fibres.bvals)
        assert np.abs(scaled / k - usual).max() < 0.5


@pytest.mark.parametrize('name', methods())
def test_no_setting_has_the_name_of_an_option(name):
    functions = [Denoiser.__init__, Denoiser.load, Denoiser.denoise, load_model]
    taken = {p for f in functions for p in inspect.signature(f).parameters}
    m = methods()[name]
    for settings in m.presets.values():
        assert not taken & set(settings)
        check_names(settings, name)
    if name in CLASSICAL:
        known = set(inspect.signature(CLASSICAL[name]['function']).parameters)
        assert set(m.presets['tiny']) <= known - {'data', 'sigma', 'mask', 'bvals', 'info'}


@pytest.mark.parametrize('name', ['method', 'preset', 'seed', 'device', 'quiet', 'level', 'self'])
def test_an_option_given_as_a_setting_is_refused_in_one_line(tmp_path, rimmed, name):
    Scan.from_array(rimmed[0]).save(tmp_path / 'a.nii.gz')
    with pytest.raises(InputError, match=f'{name}: not a setting') as e:
        denoise_scan(tmp_path / 'a.nii.gz', tmp_path / 'b.nii.gz', 'nlmeans', settings={name: '1'})
    assert '\n' not in str(e.value) and not (tmp_path / 'b.nii.gz').exists()


CPU = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')


@pytest.mark.parametrize(
    'wish, units, used',
    [
        ('no', True, 'no'),
        ('bf16', True, 'bf16'),
        ('bf16', False, 'no'),
        ('fp16', True, 'no'),
        ('fp16', False, 'no'),
        ('auto', True, 'no'),
    ],
)
def test_the_precision_is_one_that_the_processor_has_units_for(monkeypatch, wish, units, used):
    for name in CPU:
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    seen, net = [], torch.nn.Linear(2, 1)

    def objective(model, batch):
        out = model(batch['x'])
        seen.append(torch.is_autocast_enabled('cpu'))
        return out.float().square().mean()

    data = [dict(x=torch.ones(2))] * 4
    history = fit(net, objective, data, 2, 0.1, precision=wish, device='cpu', quiet=True)
    assert set(seen) == {used == 'bf16'}
    assert history.attrs['precision'] == used
    assert len(history.attrs['notes']) == (wish not in (used, 'auto'))


@pytest.mark.parametrize('wish', ['bf16', 'fp16'])
def test_the_precision_used_is_kept_with_the_model(monkeypatch, tmp_path, wish):
    for name in CPU:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    noisy = np.random.default_rng(0).normal(100, 10, (20, 20, 3)).astype(np.float32)
    d = Denoiser('noise2score', 'tiny', device='cpu', quiet=True, precision=wish, steps=2)
    first = d.denoise(noisy, model=tmp_path / 'm')
    loaded = load_model(tmp_path / 'm', device='cpu', quiet=True)
    for result in (first, loaded.denoise(noisy)):
        assert result.meta['config']['precision'] == wish
        said = [n for n in result.meta['notes'] if 'trained in float32, not in' in n]
        assert len(said) == 1 and f'precision {wish}' in said[0]
    assert loaded.learned['precision'] == 'no'


def test_another_scan_than_the_network_learned_from_is_named():
    draw = lambda seed: np.random.default_rng(seed).normal(100, 10, (20, 20, 3)).astype(np.float32)
    d = Denoiser('noise2score', 'tiny', device='cpu', quiet=True, steps=2)
    said = lambda r: [n for n in r.meta['notes'] if 'which is not this scan' in n]
    assert not said(d.denoise(draw(0)))
    assert not said(d.denoise(draw(0)))
    other = said(d.denoise(draw(1)))
    assert len(other) == 1 and 'learned from an array of shape (20, 20, 3)' in other[0]
    assert not said(d.fit(draw(1)).denoise(draw(1)))


VALUES = dict(
    label='rate = 0.1 # not a comment',
    quotes='it\'s "so" \\ done',
    lines='one\ntwo = 2\n# three',
    words='Größe – µm – 組織',
    nothing=None,
    yes=True,
    low=-3,
    small=-2.5e-7,
    some=['a = #', 'b', None, -1],
    pair=[0.5, [1, 2]],
)


def notebook_of(folder, parameters, body):
    "A notebook with a `parameters` cell and a cell that keeps what it was given"
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(parameters, metadata=dict(tags=['parameters'])),
            nbformat.v4.new_code_cell(body),
        ]
    )
    nbformat.write(nb, folder / 'of values.ipynb')
    return folder / 'of values.ipynb'


def test_parameters_come_through_a_notebook_as_they_are(tmp_path):
    folder = tmp_path / 'a {b} # c'
    folder.mkdir()
    cell = '\n'.join(f'{k} = {v!r}  # Said of {k} = #' for k, v in VALUES.items())
    keep = f'dict({", ".join(f"{k}={k}" for k in VALUES)})'
    body = f'from mri_diffusion.app.experiments import RunDir\nRunDir(out).result({keep})'
    path = notebook_of(folder, f'{cell}\nout = None', body)
    known = experiment_parameters(path)
    assert {k: v for k, (v, _) in known.items()} == VALUES
    assert all(said == f'Said of {k} = #' for k, (_, said) in known.items())
    other = dict(label='x = "#"\n', words='"' * 3 + "'", some=['#', '='], low=-7, nothing='n = #')
    for i, wanted in enumerate([{}, other]):
        found = run_experiment(path, folder / f'run {i}', wanted, quiet=True)
        assert {k: found[k] for k in VALUES} == VALUES | wanted


CELLS = {
    'x = 1  # Behind': (1, 'Behind'),
    '# Above,\n# in two lines\nx = 1': (1, 'Above, in two lines'),
    '# Far above\n\nx = 1': (1, ''),
    'y = 2  # Of y\nx = 1': (1, ''),
    'x: int = -1  # Typed': (-1, 'Typed'),
    'x: float | None = None': (None, ''),
    'x = [\n    1,  # first\n    2,\n]  # A list': ([1, 2], 'A list'),
    "x = 'a' 'b'  # Joined": ('ab', 'Joined'),
    'x = """one\ntwo = 2  # no comment\n"""': ('one\ntwo = 2  # no comment\n', ''),
    'x = 1; y = 2  # Two': (1, 'Two'),
    'y: int\nx = 1': (1, ''),
}


@pytest.mark.parametrize('cell', CELLS)
def test_the_parameters_cell_is_read_as_python(tmp_path, cell):
    assert experiment_parameters(notebook_of(tmp_path, cell, ''))['x'] == CELLS[cell]


@pytest.mark.parametrize(
    'cell, said',
    [
        ('x = open("a")', "parameter x = open('a') is not a plain value"),
        ('x = y', 'parameter x = y is not a plain value'),
        ('x = 1 +', 'not a notebook that can be run'),
    ],
)
def test_a_parameter_that_is_no_value_is_refused(tmp_path, cell, said):
    with pytest.raises(MriDiffusionError, match=r'^[^\n]*$') as e:
        experiment_parameters(notebook_of(tmp_path, cell, ''))
    assert said in str(e.value)


# ---------------------------------------------------------------- small and large units of a signal
@pytest.mark.parametrize('scale', [1e-15, 1e-9, 1e6])
def test_models_of_noise_know_no_unit(scale):
    from mri_diffusion.noise.mixture import fit_residual_mixture, noise_levels
    from mri_diffusion.noise.standardise import Standardisation, noise_curve

    rng = np.random.default_rng(0)
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in (64, 64, 12)], indexing='ij')
    a = 100 * (1 + np.sin(3 * x) * np.cos(2 * y)) * (x**2 + y**2 < 0.8)
    m = np.hypot(a + 8 * rng.normal(size=a.shape), 8 * rng.normal(size=a.shape))
    m[:4] = 0  # Blanked

    def found(k):
        fit = fit_residual_mixture((m - a) * k, a * k, n_fit=5000)
        curve = noise_curve(m * k)
        one = Standardisation('curve', curve=curve, span=(0, m.max() * k))
        states = one.states(m * k)
        parts = fit.weights, fit.sigmas / k, fit.means / k, fit.std() / k
        likely = fit.log_likelihood + np.log(k), fit.bic / 5000 - 2 * np.log(k)
        levels = noise_levels((m - a) * k) / k
        return fit.kinds, [*parts, *likely, curve[0] / k**2, curve[1] / k, curve[2], levels, states,
                           one.image(states) / k]  # fmt: skip

    kinds, values = found(1.0)
    kinds_too, scaled = found(scale)
    assert kinds == kinds_too and abs(values[1][0] / 8 - 1) < 0.02 and 'rician' in kinds
    for one, other in zip(values, scaled):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def test_a_signed_curve_has_a_floor_of_its_own():
    from mri_diffusion.noise.standardise import Standardisation

    small, large = (
        Standardisation('curve', curve=(0.0, 1.0 * k, 0.0), span=(-200.0 * k, 0.0))
        for k in (1e-9, 1)
    )
    z = np.linspace(-3, 3, 7)
    assert np.allclose(small.image(z) * 1e9, large.image(z), rtol=1e-4)
    assert np.isfinite(large.image(z)).all() and large.image(z).std() > 0
