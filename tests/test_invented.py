"Patches to train with: the same numbers, the same bits; noise as asked; no scan needed"

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mri_diffusion.core import InputError
from mri_diffusion.learn import invented
from mri_diffusion.learn.invented import (
    LEAST_NOISE,
    SEEN_NOISE,
    Source,
    blanking,
    clean_patch,
    cut_patch,
    load_sources,
    repaint,
    resampler,
    training_pair,
)
from mri_diffusion.noise.rician_bias import expected_state, stabilise, unstabilise
from mri_diffusion.noise.training_noise import (
    Physics,
    draw_physics,
    mean_state,
    noisy_and_target,
)
from mri_diffusion.phantoms.anatomy import add_vessels, anatomy, head, leaves, smooth_field
from mri_diffusion.scans.nifti import Scan

SCAN = [Source(np.random.default_rng(0).random((40, 40, 12), np.float32), 0.01, 1.0)]
train = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'train'


# Means and standard deviations of noisy and target, and the mean of what an error counts, in the
# training of the weights: it can only be continued while they stay
FIRST = {
    0: (1.2700, 1.3106, 1.2660, 0.8663, 1.0000),
    1: (2.4436, 1.2025, 2.4571, 0.6371, 1.3948),
    2: (7.6628, 2.2750, 7.6645, 2.0440, 1.0211),
    3: (1.7726, 1.6676, 1.7566, 1.3571, 1.1711),
    7: (11.4818, 6.2118, 11.4842, 6.1325, 1.0965),
    11: (5.9575, 7.3958, 5.9551, 7.3313, 1.0000),
}

NO_SCAN = {  # The same without a scan: side 16, room 32
    0: (2.3376, 1.2510, 2.3439, 0.7669, 1.0000),
    1: (3.4076, 1.2511, 3.5014, 0.6273, 2.1953),
    2: (5.6124, 2.3976, 5.6365, 2.1691, 1.1465),
    3: (9.0759, 7.1930, 9.0967, 7.1332, 3.2412),
}


def told(noisy, target, counts):
    "Mean and standard deviation of both, and the mean of what an error counts"
    return noisy.mean(), noisy.std(), target.mean(), target.std(), counts.mean()


@pytest.mark.parametrize('snr', [0.0, 1.5, 12.0, 45.0])
@pytest.mark.parametrize('kind,coils', [('gaussian', 1), ('magnitude', 1), ('magnitude', 8)])
@pytest.mark.parametrize('band', [False, True])
def test_noise_is_unit_and_target_is_its_mean(kind, coils, snr, band):
    rng, n = np.random.default_rng(1), 32
    keep = np.exp(-2 * (np.pi * np.fft.fftfreq(n) * 0.5) ** 2).astype(np.float32) if band else None
    p = Physics(kind, coils, np.float32(0.02), np.float32(0.02), (keep, None, None))
    clean = np.full((n,) * 3, 0.02 * snr, np.float32)
    noisy, target = noisy_and_target(clean, p, rng)
    assert abs((noisy - target).mean()) < 0.03
    assert abs((noisy - target).std() - 1) < (0.12 if snr < 2 else 0.03)
    back = unstabilise(target, 0.02, coils) if kind == 'magnitude' else 0.02 * target
    assert np.allclose(back, clean, atol=2e-5)


@pytest.mark.parametrize('coils,off', [(1, 1.3), (16, 0.7), (32, 1.4)])
def test_a_wrong_told_level_scales_the_noise(coils, off):
    p = Physics('magnitude', coils, np.float32(0.02), np.float32(0.02 * off), (None,) * 3)
    noisy, target = noisy_and_target(
        np.full((32,) * 3, 0.8, np.float32), p, np.random.default_rng(2)
    )
    assert abs((noisy - target).std() - 1 / off) < 0.03
    assert abs((noisy - target).mean()) < 0.05


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_noise_is_correlated_along_the_axis_of_the_filter_only(axis):
    n = 48
    keep = (np.abs(np.fft.fftfreq(n)) <= 0.25).astype(np.float32)
    bands = tuple(keep if k == axis else None for k in range(3))
    p = Physics('magnitude', 4, np.float32(0.02), np.float32(0.02), bands)
    noisy, target = noisy_and_target(
        np.full((n,) * 3, 0.5, np.float32), p, np.random.default_rng(3)
    )
    rho = np.fft.ifft(keep**2 / (keep**2).mean()).real
    for k in range(3):
        found = ((noisy - target) * np.roll(noisy - target, 1, k)).mean()
        assert abs(found - (rho[1] if k == axis else 0)) < 0.03


def test_a_map_of_the_level_gives_unit_noise_everywhere():
    sigma = np.linspace(0.01, 0.1, 40, dtype=np.float32)[:, None, None] * np.ones(
        (40, 40, 40), np.float32
    )
    p = Physics('magnitude', 2, sigma, sigma, (None,) * 3)
    noisy, target = noisy_and_target(
        np.full((40,) * 3, 0.9, np.float32), p, np.random.default_rng(4)
    )
    assert np.abs((noisy - target).std((1, 2)) - 1).max() < 0.08


def test_an_unknown_kind_of_noise_is_refused():
    p = Physics('poisson', 1, np.float32(0.1), np.float32(0.1), (None,) * 3)
    with pytest.raises(InputError, match='poisson'):
        noisy_and_target(np.ones((8, 8, 8), np.float32), p, np.random.default_rng(0))


@pytest.mark.parametrize('n', [1, 2, 16, 32])
def test_expected_state_is_the_mean_of_the_stabilised_magnitude(n):
    for snr in (0.0, 0.7, 3.0, 35.0):
        rng = np.random.default_rng(5)
        e = rng.normal(size=(2, n, 100_000))
        e[0, 0] += snr
        m = stabilise(np.sqrt((e**2).sum((0, 1))), 1.0, n)
        assert abs(m.mean() - expected_state(snr, n)) < 0.015
    assert isinstance(expected_state(2.0, n), float)


def test_a_noisy_source_gets_five_times_its_noise():
    for s in range(100):
        p = draw_physics((8, 8, 8), np.random.default_rng(s), lowest=0.03)
        assert np.exp(np.log(p.sigma).mean()) > 0.06
        assert np.ndim(p.sigma) or p.sigma >= np.float32(0.15)


@pytest.mark.parametrize('sources', [SCAN, []], ids=['a scan', 'no scan'])
def test_a_pair_is_a_function_of_its_numbers(sources, tmp_path):
    numbers = dict(seed=3, step=5, index=1, side=16, room=24)
    a = training_pair(sources, **numbers)
    for folder in (None, tmp_path / 'kept', tmp_path / 'kept'):
        invented._invented.cache_clear()
        training_pair(sources, 9, 9, 9, 16, room=24)  # What came before does not matter
        b = training_pair(sources, **numbers, anatomies=folder)
        assert all((x == y).all() for x, y in zip(a, b))
    for other in (dict(seed=4), dict(step=6), dict(index=2)):
        assert (training_pair(sources, **numbers | other)[0] != a[0]).any()


@pytest.mark.usefixtures('cold')
def test_another_process_makes_the_same_bits():
    ask = (
        'import hashlib; from mri_diffusion.learn.invented import training_pair; '
        'p = training_pair([], 1, 2, 3, 16, room=24); '
        'print(hashlib.sha256(bytes().join(v.tobytes() for v in p)).hexdigest())'
    )
    other = subprocess.run(
        [sys.executable, '-c', ask], capture_output=True, text=True, check=True
    ).stdout.strip()
    here = b''.join(v.tobytes() for v in training_pair([], 1, 2, 3, 16, room=24))
    assert other == hashlib.sha256(here).hexdigest()


@pytest.mark.parametrize('side', [8, 11, 32])
def test_pairs_are_finite_and_on_the_unit_scale(side):
    spread = []
    for i in range(60):
        noisy, target, counts = training_pair(SCAN, 0, i, 0, side, room=32)
        assert noisy.shape == target.shape == counts.shape == (side,) * 3
        assert counts.dtype == np.float32 and set(np.unique(counts)) <= {1.0, 4.0}
        assert noisy.dtype == target.dtype == np.float32
        assert np.isfinite(noisy).all() and np.isfinite(target).all()
        spread.append((noisy - target).std())
    assert abs(np.median(spread) - 1) < 0.15


def test_a_damaged_file_of_the_store_is_made_anew_and_not_unpickled(tmp_path):
    numbers = dict(seed=0, step=0, index=0, side=8, room=16, anatomies=tmp_path)
    a = training_pair([], **numbers)
    files = list(tmp_path.iterdir())
    assert files and all(f.suffix == '.npy' for f in files)
    whole = files[0].read_bytes()
    np.save(files[0].with_name('object.npy'), np.array([print], object), allow_pickle=True)
    pickled = files[0].with_name('object.npy').read_bytes()
    other = tmp_path / 'other.npy'
    np.save(other, np.zeros((4, 4, 4), np.float16))
    for damage in (b'', whole[:100], whole[:-1], b'no array', pickled, other.read_bytes()):
        for f in files:
            f.write_bytes(damage)
        invented._invented.cache_clear()
        assert (training_pair([], **numbers)[0] == a[0]).all()
        assert files[0].read_bytes() == whole


@pytest.mark.parametrize(
    'given,said',
    [
        (dict(seed=-1), 'negative'),
        (dict(step=-1), 'negative'),
        (dict(index=-2), 'negative'),
        (dict(side=4), 'at least 8'),
        (dict(room=4), 'at least 8'),
    ],
)
def test_numbers_out_of_range_are_refused(given, said):
    with pytest.raises(InputError, match=said) as e:
        training_pair([], **dict(seed=0, step=0, index=0) | given)
    assert '\n' not in str(e.value)


def put(folder, data):
    "A source in a folder"
    folder.mkdir(parents=True)
    Scan.from_array(np.asarray(data, np.float32)).save(folder / 'image.nii.gz')


def test_sources_are_scaled_and_named(tmp_path):
    x = np.random.default_rng(0).random((20, 21, 22)) * 900 - 10
    put(tmp_path / 'b', x)
    put(tmp_path / 'spine_t2', x[:10])
    b, spine = load_sources(tmp_path)
    assert np.isclose(np.percentile(b.image, 99), 1, atol=1e-3) and b.image.min() == 0
    assert (b.noise, spine.noise) == (LEAST_NOISE, SEEN_NOISE['spine_t2']) == (0.008, 0.04)
    assert np.isclose(b.weight / spine.weight, 2**0.5)
    assert [s.noise for s in load_sources(tmp_path, {'b': 0.5})] == [0.5, 0.008]


def test_bad_folders_are_refused_in_one_line(tmp_path):
    for folder, data, said in (
        ('constant', np.zeros((8, 8, 8)), 'constant'),
        ('one voxel', np.eye(1, 1000).reshape(10, 10, 10), 'nothing in it'),
        ('series', np.random.default_rng(0).random((8, 8, 8, 3)), 'one volume'),
    ):
        put(tmp_path / folder / 'x', data)
        with pytest.raises(InputError, match=said) as e:
            load_sources(tmp_path / folder)
        assert '\n' not in str(e.value) and 'image.nii.gz' in str(e.value)
    with pytest.raises(InputError, match='no scan'):
        load_sources(tmp_path / 'nowhere')


def test_the_resampler_keeps_constants_and_lines():
    m = resampler(50, 8.0, 1.3, 0.5, 20)
    assert np.allclose(m.sum(1), 1, atol=1e-5)
    assert np.allclose(m @ np.arange(50), 8 + 1.3 * np.arange(20), atol=0.03)


@pytest.mark.parametrize('shape', [(60, 60, 60), (40, 50, 12), (90, 30, 41)])
def test_the_noise_that_is_left_in_a_patch_is_handed_on(shape):
    e = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ratio = []
    for s in range(12):
        x, left = cut_patch(e, 1.0, 24, np.random.default_rng(s))
        ratio.append(x.std() / left)
    assert abs(np.mean(ratio) - 1) < 0.06 and np.abs(np.array(ratio) - 1).max() < 0.3


def test_repainting_multiplies_noise_by_no_more_than_the_slope_it_tells():
    e = 1e-4 * np.random.default_rng(0).normal(size=(12, 12, 12))
    for s in range(60):
        for level in np.linspace(0.15, 1.1, 12):
            y, slope = repaint(level + e, np.random.default_rng(s))
            assert y.std() <= 1.4 * slope * e.std()


def test_blanking_leaves_something_and_takes_something():
    x = anatomy((1, 2), 40)
    left = [blanking(x, np.random.default_rng(s)).mean() for s in range(30)]
    assert min(left) > 0 and max(left) <= 1 and 0.1 < np.mean(left) < 0.9


@pytest.mark.parametrize('coils', [1, 8, 32])
def test_the_target_of_a_wrong_level_is_the_mean_it_will_have_far_above_the_floor(coils):
    clean = np.linspace(3, 60, 50)
    right, wrong = mean_state(clean, 1.0, 1.0, coils), mean_state(clean, 1.0, 1.25, coils)
    assert (np.diff(right) > 0).all() and (np.diff(wrong) > 0).all()
    assert abs(wrong[-1] * 1.25 / right[-1] - 1) < 0.01


def test_an_error_counts_four_times_inside_lesions_and_nowhere_else(monkeypatch):
    shapes = dict(side=32, room=48)
    with_them = [training_pair([], 0, 0, i, **shapes)[2] for i in range(12)]
    monkeypatch.setattr(invented, 'add_lesions', lambda *a: None)
    without = [training_pair([], 0, 0, i, **shapes)[2] for i in range(12)]
    assert all((c == 1).all() for c in without)
    share = [(c > 1).mean() for c in with_them]
    assert max(share) < 0.6 and np.count_nonzero(share) > 5


@pytest.mark.parametrize('wrong,widest', [(0.0, 0.2), (1.0, 0.4)])
def test_the_told_level_is_as_wrong_as_asked(wrong, widest):
    off = [
        float(np.log(np.mean(p.told / p.sigma)))
        for p in (
            draw_physics((8, 8, 8), np.random.default_rng(s), wrong=wrong) for s in range(300)
        )
    ]
    assert np.max(np.abs(off)) < widest + 1e-6
    assert np.std(off) < 0.05 if wrong == 0 else np.std(off) > 0.15


def test_vessels_stay_inside_and_are_thin():
    x = np.full((40, 40, 40), 0.5, np.float32)
    add_vessels(x, np.random.default_rng(0))
    assert 0 < (x != 0.5).mean() < 0.2 and x.min() >= 0 and x.max() <= 1.4


def test_a_share_of_nothing_never_invents(monkeypatch):
    monkeypatch.setattr(invented, 'anatomy', lambda *a: pytest.fail('an anatomy was made'))
    invented._invented.cache_clear()
    for s in range(20):
        clean_patch(SCAN, 0, 0, np.random.default_rng(s), 16, synthetic=0.0)


@pytest.mark.parametrize('make', [head, leaves], ids=lambda f: f.__name__)
def test_invented_shapes_of_any_size(make):
    for shape in ((24, 24, 24), (40, 21, 9), (16, 16, 30)):
        x = make(shape, np.random.default_rng(7))
        assert x.shape == shape and x.dtype == np.float32 and np.isfinite(x).all()
        assert x.std() > 0.02 and (x == make(shape, np.random.default_rng(7))).all()


def test_heads_and_leaves_are_both_drawn():
    empty = [(anatomy((1, s), 24)[::23, ::23, ::23] == 0).mean() for s in range(40)]
    assert 0.35 < np.mean(np.array(empty) > 0.5) < 0.85


def test_a_wide_field_is_as_wide_as_asked():
    f = smooth_field((96, 96, 96), 6.0, np.random.default_rng(0))
    near = [(f[d:] * f[:-d]).mean() for d in (3, 6)]
    assert np.abs(near - np.exp(-np.array([9, 36]) / (4 * 36))).max() < 0.1


@pytest.mark.skipif(not train.exists(), reason='shared/data is not on this machine')
def test_the_training_of_the_first_weights_can_be_continued():
    sources = load_sources(train)
    for i, wanted in FIRST.items():
        found = told(*training_pair(sources, 0, 0, i))
        assert np.allclose(found, wanted, rtol=2e-4), (i, found)


def test_a_training_without_scans_can_be_continued():
    for i, wanted in NO_SCAN.items():
        found = told(*training_pair([], 0, 0, i, 16, room=32))
        assert np.allclose(found, wanted, rtol=2e-4), (i, found)
