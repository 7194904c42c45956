"Error bars on data that did not set them, the residual against the noise, and bad volumes"

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from mri_diffusion.core import generator
from mri_diffusion.judge.uncertainty import (
    bad_volumes,
    calibrate_std,
    consistency,
    coverage,
    kspace_consistency,
)
from mri_diffusion.methods.classical import blur
from mri_diffusion.noise.kspace import coil_maps, simulate_kspace
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1, make_gradients, shared_data, simulate_dmri


@pytest.fixture(scope='module')
def head():
    return load_t1(downsample=3)


def bars(head, seed, sigma=0.08):
    "Denoised, spread of six runs, error"
    y = np.asarray(add_noise(head.data, sigma, gen=generator(seed)), float)
    rng = np.random.default_rng(seed)
    runs = np.stack([blur(y + rng.normal(0, 0.5 * sigma, y.shape), width=0.6) for _ in range(6)])
    d = blur(y, width=0.6).astype(float)
    return d, runs.std(0, ddof=1).astype(float), d - head.data


@pytest.fixture(scope='module')
def two(head):
    "The bars of two seeds"
    return bars(head, 0), bars(head, 1)


@pytest.mark.parametrize('level', [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize('bins', [1, 8])
def test_coverage_on_another_seed_and_other_slices(head, two, level, bins):
    (_, s0, e0), (_, s1, e1) = two
    even = head.mask & (np.arange(head.shape[2]) % 2 == 0)
    assert (
        abs(
            coverage(calibrate_std(s0, e0, level, even, bins), s1, e1, head.mask & ~even)[0] - level
        )
        < 0.02
    )


@pytest.mark.parametrize('R', [2, 4])
def test_repeats_as_labels(head, two, R):
    (d0, s0, _), (_, s1, e1) = two
    reps = np.stack(
        [np.asarray(add_noise(head.data, 0.08, gen=generator(50 + r)), float) for r in range(R)], -1
    )
    kept, off = (
        coverage(
            calibrate_std(
                s0, level=0.9, mask=head.mask, bins=5, denoised=d0, repeats=reps, label_noise=how
            ),
            s1,
            e1,
            head.mask,
        )[0]
        for how in ('kept', 'taken off')
    )
    assert abs(off - 0.9) < 0.02 < kept - 0.9


def test_the_factor_of_a_known_law():
    rng = np.random.default_rng(0)
    std = rng.uniform(1, 3, 100_000)
    for law in (stats.norm, stats.laplace):
        assert (
            abs(
                calibrate_std(std, std * law.rvs(size=std.size, random_state=rng), 0.9).factors[0]
                / law.ppf(0.95)
                - 1
            )
            < 0.02
        )
    c = calibrate_std(std, std**2 * rng.normal(size=std.size), 0.9, bins=10)
    assert (np.diff(c.factors) > 0).all() and np.allclose(
        c.half_width(2 * np.ones(3)), 2 * c.factors[np.searchsorted(c.edges, 2.0)]
    )


def test_conformal_is_valid_in_small_samples():
    rng = np.random.default_rng(1)
    held = [
        np.abs(rng.normal()) <= calibrate_std(np.ones(19), rng.normal(size=19), 0.9).factors[0]
        for _ in range(4000)
    ]
    assert abs(np.mean(held) - 0.9) < 0.015  # exactly 18/20 by exchangeability


def test_consistency_of_weak_and_strong_residuals():
    r = np.random.default_rng(0).normal(size=(32, 32, 16))
    mask = np.hypot(*np.indices((32, 32)) - 16)[:, :, None] < 14 + np.zeros(16)
    weak = consistency(0.8 * r, mask)
    assert (
        consistency(r, mask)[['p_above', 'p_below']].to_numpy().min() > 1e-4
        and weak.p_below[weak.modes > 50].max() < 0.01
        and weak.p_below.min() < 1e-6
    )
    low = r + ndimage.gaussian_filter(np.random.default_rng(1).normal(size=r.shape), 2.0) * 8
    t = consistency(low, mask)
    assert t.ratio.idxmax() <= 1 and t.p_above.min() < 1e-9 and t.p_above.iloc[-1] > 1e-4


def test_kspace_sees_what_was_left_out_only_where_it_was_measured():
    image = torch.as_tensor(load_t1(downsample=3).data[:, :, 30])
    smaps = coil_maps(tuple(image.shape), 3, gen=generator(0))
    k = simulate_kspace(image, smaps, 0.03, generator(1))
    seen = np.zeros(image.shape, bool)
    seen[:, ::2] = True
    k[:, :, 1::2] = 0
    assert (
        kspace_consistency(k, image, smaps, 0.03, seen).p_above.min() > 1e-4
        and kspace_consistency(k, image, smaps, 0.03).p_above.min() < 1e-9
    )


@pytest.fixture(scope='module')
def phantom():
    bvals, bvecs = make_gradients({1000: 12, 2000: 12}, 2)
    truth, _ = simulate_dmri(bvals, bvecs, (32, 36, 18), seed=3, voxel_size=None)
    return (
        bvals,
        truth.data.astype(float),
        truth.mask,
        float(np.median(truth.data[..., 0][truth.mask])) / 25,
    )


def noisy(phantom, seed, damage=None):
    _, z, _, s = phantom
    z = z.copy()
    if damage:
        damage(z)
    return np.asarray(add_noise(z, s, gen=generator(seed)), np.float32)


def test_few_false_alarms_on_good_series(phantom):
    assert (
        sum(len(bad_volumes(noisy(phantom, 300 + s), phantom[0], phantom[2])) for s in range(8))
        <= 2
    )


@pytest.mark.parametrize(
    'where, part', [((9, 4), 0.2), ((9, 4), 0.5), ((12, 9), 0.2), ((12, 9), 0.5), ((7, 20), 0.5)]
)  # volumes 2 to 13 have b = 1000, the others 2000
def test_a_dropout_is_found_and_named(phantom, where, part):
    s, v = where

    def damage(z):
        z[:, :, s, v] *= 1 - part

    x = noisy(phantom, 7, damage)
    before = x.copy()
    t = bad_volumes(x, phantom[0], phantom[2])
    assert (
        (t['slice'][0], t.volume[0]) == where
        and 'signal lost' in t.what[0]
        and len(t) <= 2
        and np.array_equal(x, before)
    )


def test_a_volume_that_moved(phantom):
    def damage(z):
        z[..., 6] = ndimage.shift(z[..., 6], (0, 2.0, 0), order=1)

    t = bad_volumes(noisy(phantom, 8, damage), phantom[0], phantom[2])
    assert ((t.volume == 6) & (t['slice'] == -1) & t.what.str.contains('moved')).any()


def test_a_real_series_of_directions():
    path = shared_data('dti32')
    if path is None:
        pytest.skip('shared/data is not on this machine')
    from mri_diffusion.scans.nifti import Scan

    scan = Scan.load(
        next(p for p in sorted(path.iterdir()) if p.name.endswith(('.nii', '.nii.gz')))
    )
    if scan.bvals is None or scan.data.ndim != 4:
        pytest.skip('no gradient table beside it')
    cut = scan.data[..., :40]
    hurt = cut.copy()
    s = cut.shape[2] // 2
    hurt[:, :, s, 20] *= 0.5
    before, t = bad_volumes(cut, scan.bvals[:40]), bad_volumes(hurt, scan.bvals[:40])
    assert ((t['slice'] == s) & (t.volume == 20)).any() and len(before) < 0.02 * cut.shape[
        2
    ] * cut.shape[3]
