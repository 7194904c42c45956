"Scores of a series against closed forms: held-out volumes, bias and spread, responses, widths"

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.series import (
    bias_precision,
    edge_response,
    floor_bias,
    fwhm,
    held_out_table,
    point_response,
    predict_held_out,
    split_volumes,
    volume_response,
)
from mri_diffusion.judge.truth import KnownTruth, crop_scan, make_truth
from mri_diffusion.methods.classical import blur
from mri_diffusion.noise.components import series_sigma
from mri_diffusion.noise.models import add_gaussian_noise, add_rician_noise
from mri_diffusion.phantoms.heads import (
    TISSUES,
    eigenvalues,
    make_gradients,
    shared_data,
    simulate_dmri,
)
from mri_diffusion.scans.nifti import Scan

GRADIENTS = make_gradients({1000: 18}, 2)
WIDTH = np.sqrt(8 * np.log(2))


@pytest.fixture(scope='module')
def truth():
    "White matter only, so that the tensor is the truth"
    white_matter = dict.fromkeys(TISSUES, TISSUES['wm'])
    clean, _ = simulate_dmri(*GRADIENTS, shape=(12, 12, 4), tissues=white_matter)
    return make_truth(clean, snr=25)


def clean_of(truth):
    "A denoiser that knows the truth, for any choice of volumes"
    c = truth.clean

    def f(part):
        same = [(c.bvecs == g).all(1) & (c.bvals == b) for b, g in zip(part.bvals, part.bvecs)]
        return c.data[..., [int(np.flatnonzero(k)[0]) for k in same]]

    return f


def raw(part):
    return part.data


def raw_array(x):
    return x


def test_folds_hold_every_weighted_volume_once():
    bvals = np.r_[0, np.full(11, 1000.0), 5, 2000, 2000]
    parts = split_volumes(bvals, 4, seed=1)
    assert (
        sorted(np.concatenate(parts)) == [k for k, b in enumerate(bvals) if b > 50]
        and len(parts) == 4
    )
    assert (
        [p.tolist() for p in parts]
        == [p.tolist() for p in split_volumes(bvals, 4, seed=1)]
        != [p.tolist() for p in split_volumes(bvals, 4, seed=2)]
    )
    for folds in (1, 14):
        with pytest.raises(InputError, match='folds'):
            split_volumes(bvals, folds)


def test_the_truth_predicts_to_within_the_noise(truth):
    h = predict_held_out(clean_of(truth), truth.noisy, truth.sigma, folds=2, floor_removed=True)
    assert abs(h.chi2 - h.noise) < 4 * h.error + 0.01 and 0.95 < h.noise < 1
    assert (
        np.isnan(h.volumes[:2]).all()
        and np.isnan(h.expected[..., :2]).all()
        and not h.map[~truth.mask].any()
    )
    assert (
        h.chi2
        == pytest.approx(np.nanmean(h.volumes))
        == pytest.approx(h.map[truth.mask].mean(), rel=1e-4)
    )


def test_deconvolution_predicts_crossings_that_a_tensor_cannot():
    "Half the voxels hold one bundle, the others two at a right angle"
    bvals, bvecs = make_gradients({3000: 45}, 1)
    a, r = eigenvalues(0.7, 0.7e-3)
    one, two = (1000 * np.exp(-bvals * (r + (a - r) * bvecs[:, k] ** 2)) for k in (0, 1))
    data = np.ones((6, 6, 2, 1)) * one
    data[3:] = (one + two) / 2
    clean = Scan.from_array(data, np.eye(4), bvals, bvecs, np.ones((6, 6, 2), bool))
    truth = make_truth(clean, snr=20)
    found = {
        m: predict_held_out(
            clean_of(truth), truth.noisy, truth.sigma, folds=3, floor_removed=True, model=m
        )
        for m in ('tensor', 'csd')
    }
    excess = {m: float(h.map[3:].mean() - h.noise) for m, h in found.items()}
    assert (
        excess['tensor'] > 2 * excess['csd']
        and excess['csd'] < 0.2
        and found['tensor'].map[:3].mean() < found['csd'].map[:3].mean()
    ), excess
    two, _ = simulate_dmri(*make_gradients({1000: 10, 2000: 10}, 1), shape=(6, 6, 2))
    with pytest.raises(InputError, match='one shell'):
        predict_held_out(raw, make_truth(two).noisy, 30.0, folds=2, model='csd')


def test_the_denoiser_never_sees_what_it_is_judged_on(truth):
    seen = []

    def spy(part):
        seen.append(part.bvecs)
        return part.data

    predict_held_out(spy, truth.noisy, truth.sigma, folds=3)
    for out, rest in zip(split_volumes(truth.noisy.bvals, 3), seen):
        assert len(rest) + len(out) == 20 and not any(
            (rest == g).all(1).any() for g in truth.noisy.bvecs[out]
        )


def test_gaussian_noise_and_a_map_of_sigma(truth):
    clean, rng = truth.clean.data, np.random.default_rng(0)
    level = truth.sigma * np.linspace(0.5, 1.5, 12)[:, None, None] * np.ones((12, 12, 4))
    noisy = truth.clean.with_data(clean + level[..., None] * rng.standard_normal(clean.shape))
    h = predict_held_out(clean_of(truth), noisy, level, folds=2, noise='gaussian')
    assert h.noise == 1 and abs(h.chi2 - 1) < 4 * h.error + 0.005


def test_overrating_the_signal_does_not_win():
    "Below the floor a signal that is too high has a larger variance; divided by that, it would win"
    truth = make_truth(simulate_dmri(*make_gradients({5000: 18}, 2), shape=(10, 10, 3))[0], snr=10)
    chi2 = [
        predict_held_out(
            lambda s, k=k: k * clean_of(truth)(s),
            truth.noisy,
            truth.sigma,
            folds=2,
            floor_removed=True,
        ).chi2
        for k in (1, 2, 3)
    ]
    assert chi2[0] < chi2[1] < chi2[2]


def test_table_ranks_what_is_known(truth):
    table = held_out_table(
        {'truth': clean_of(truth), 'very wide': lambda s: blur(s.data, width=4.0)},
        truth.noisy,
        truth.sigma,
        ('truth',),
        folds=2,
    )
    assert (
        list(table.index) == ['identity', 'blur', 'truth', 'very wide']
        and table['chi2'].idxmin() == 'truth'
        and table['chi2']['very wide'] > table['chi2']['blur']
    )


def test_bias_and_spread_of_what_is_known(truth):
    exact = bias_precision(lambda x: truth.clean.data, truth, n=2)
    assert np.allclose(exact.table, 0, atol=1e-6)
    b0, extra = truth.clean.data[..., :1], np.where(truth.clean.is_b0, 1, np.exp(-1000 * 1e-4))
    off = bias_precision(
        lambda x: truth.clean.data * extra, truth, n=2
    ).table  # MD too high by 1e-4 everywhere, whatever the noise
    assert (
        off.loc['MD', 'bias'] == pytest.approx(1e-4, rel=0.02)
        and off.loc['MD', 'bias_rms'] == pytest.approx(1e-4, rel=0.02)
        and off.loc['MD', 'std_rms'] == 0
    )
    assert b0.min() >= 0


def test_spread_is_not_taken_for_bias(truth):
    rng, moved = np.random.default_rng(0), dict(k=0)

    def f(x):
        "MD that scatters about the truth by 1e-4, no bias"
        d = 1e-4 * rng.standard_normal(x.shape[:3])[..., None]
        moved['k'] += 1
        return truth.clean.data * np.where(truth.clean.is_b0, 1, np.exp(-1000 * d))

    t = bias_precision(f, truth, n=4).table.loc['MD']
    assert (
        moved['k'] == 4
        and t['std_rms'] == pytest.approx(1e-4, rel=0.1)
        and t['bias_rms'] < 3e-5
        and t['rmse'] == pytest.approx(np.hypot(t['bias_rms'], t['std_rms']))
    )


def test_fa_is_judged_where_there_is_some():
    mixed = make_truth(simulate_dmri(*GRADIENTS, shape=(12, 12, 4))[0], snr=20)
    fields = ('clean', 'noisy', 'mask', 'sigma', 'snr', 'seed')
    b = bias_precision(lambda x: x, KnownTruth(**{k: getattr(mixed, k) for k in fields}), n=3)
    assert list(b.table.index) == ['FA', 'FA_rest', 'MD']
    assert b.table.loc['FA_rest', 'bias'] > b.table.loc['FA', 'bias']
    assert set(b.bias) == set(b.std) == {'FA', 'MD'} and b.bias['FA'].shape == (12, 12, 4)
    with pytest.raises(InputError, match='at least two'):
        bias_precision(lambda x: x, mixed, n=1)


@pytest.mark.parametrize('width', [0, 1.0])
def test_response_of_a_mixture_is_its_matrix(width):
    x = np.random.default_rng(0).standard_normal((8, 9, 5, 7))
    W = np.random.default_rng(1).standard_normal((7, 7))
    r = volume_response(lambda y: y @ W, x, 2.0, width=width)
    assert np.allclose(r.matrix, W, atol=1e-4) and np.allclose(r.kept, np.diag(W), atol=1e-4)
    assert not np.diag(r.leaked).any()
    part = volume_response(lambda y: y @ W, x, 2.0, volumes=[4, 2], mask=x[..., 0] > 0)
    assert np.allclose(part.matrix, W[[4, 2]], atol=1e-4)


def test_identity_and_a_spatial_blur_leak_nothing():
    x = np.random.default_rng(0).standard_normal((10, 9, 6, 5)).astype(np.float32)
    one = volume_response(lambda y: y, x, 1.0)
    soft = volume_response(lambda y: gaussian_filter(y, (1, 1, 1, 0), mode='wrap'), x, 1.0)
    assert np.allclose(one.matrix, np.eye(5), atol=1e-5) and not soft.leaked.round(5).any()
    d = np.zeros((10, 9, 6))
    d[0, 0, 0] = 1
    middle = gaussian_filter(d, 1, mode='wrap')[0, 0, 0]
    assert soft.kept.mean() == pytest.approx(middle, abs=0.15)  # White pattern: and chance
    added = volume_response(lambda y: y + y.mean(-1, keepdims=True), x, 1.0)
    assert added.leaked.max() == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize('width', [0.35, 0.6, 1.0, 2.0])
@pytest.mark.parametrize('axis', [0, 1])
def test_widths_of_a_gaussian_blur(width, axis):
    y = np.random.default_rng(0).standard_normal((50, 46, 3)).astype(np.float32)
    f = lambda x: gaussian_filter(x, (width, width, 0))
    e = edge_response(f, y, 3.0, axis, reach=10)
    assert (
        e['fwhm'] == pytest.approx(WIDTH * width, rel=0.01)
        and e['kept'] == pytest.approx(1, abs=1e-4)
        and e['distance'][e['line'].argmax()] == 0
    )
    p = point_response(f, y, 3.0, reach=9)
    assert p['fwhm'][axis] == pytest.approx(WIDTH * width, rel=0.01)
    assert p['response'].shape == (19, 19, 3)
    line = np.exp(-(np.arange(-20, 21) ** 2) / (2 * width**2))
    assert p['kept'] == pytest.approx(1 / line.sum() ** 2, rel=0.01)
    assert fwhm(line) == pytest.approx(WIDTH * width)


def test_widths_at_the_ends():
    y = np.zeros((30, 30, 4, 3), np.float32)
    least = 2 * np.sqrt(np.log(2) / np.log(1e6))
    assert edge_response(raw_array, y, 2.0)['fwhm'] == pytest.approx(least)
    assert point_response(raw_array, y, 2.0)['fwhm'][0] == pytest.approx(least)
    thin = point_response(raw_array, y[:, :, :1], 2.0)
    assert np.isnan(fwhm(np.ones(5))) and np.isnan(thin['fwhm'][2])
    half = edge_response(lambda x: 0.5 * x, y, 2.0, mask=np.ones(y.shape[:3]))
    assert half['kept'] == pytest.approx(0.5)
    assert edge_response(raw_array, y, 2.0, at=12)['edge'].tolist() == [0] * 8 + [1] * 9
    for wrong in (dict(at=3), dict(height=0.0), dict(mask=np.zeros(y.shape[:3]))):
        with pytest.raises(InputError):
            edge_response(lambda x: x, y, **dict(height=1.0) | wrong)
    with pytest.raises(InputError, match='none fits'):
        point_response(lambda x: x, y, 1.0, mask=np.zeros(y.shape[:3]))


def test_floor_of_the_identity_is_the_rician_mean():
    clean = np.random.default_rng(0).uniform(0, 10, (40, 40, 30)) * 2.5
    f = floor_bias(add_rician_noise(clean, 2.5, generator(0)), clean, 2.5)
    assert (
        len(f) == 10
        and (np.abs(f['bias'] - f['rician']) < 4 * f['error']).all()
        and f['n'].sum() == clean.size
    )
    assert f['rician'].iloc[0] > 10 * f['rician'].iloc[-1] > 0
    g = floor_bias(add_gaussian_noise(clean, 2.5, generator(1)), clean, 2.5)
    assert (np.abs(g['bias']) < 4 * g['error']).all()
    shifted = floor_bias(
        clean + 5, clean, np.full(clean.shape, 2.5), edges=[0, 4, 8], mask=clean > 5
    )
    assert (
        list(shifted.index) == ['0 to 4', '4 to 8']
        and np.allclose(shifted['bias'], 2)
        and shifted['snr'].iloc[0] > 2
    )
    with pytest.raises(InputError, match='falls into a bin'):
        floor_bias(clean, clean, 1e-6)


folder = shared_data('dti32')


@pytest.mark.skipif(folder is None, reason='the scan shared/data/dti32 is not on this machine')
def test_a_wide_blur_does_not_win_on_a_real_scan():
    part = crop_scan(
        Scan.load(folder / 'dwi.nii.gz', bval=folder / 'dwi.bval', bvec=folder / 'dwi.bvec'),
        '52:72,52:72,29:33',
    )
    mean = part.data.mean(-1)
    inside = mean > 0.25 * np.percentile(mean, 98)
    level, _ = series_sigma(part.data, inside, bvals=part.bvals)
    table = held_out_table(
        {'wide': lambda s: blur(s.data, width=2.0)}, part, level, mask=inside, folds=2
    )
    assert (
        np.isfinite(table.to_numpy()).all()
        and table['chi2']['wide'] > table['chi2']['identity'] > 1
    )
