"The noise level that was told: corrected where two witnesses call it wrong, and only there"

from pathlib import Path

import numpy as np
import pytest

from mri_diffusion import denoise
from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.scores import psnr
from mri_diffusion.learn.tasks import t1_task
from mri_diffusion.methods import level
from mri_diffusion.methods.classical import nlmeans
from mri_diffusion.methods.level import checked_level, level_seen
from mri_diffusion.methods.shipped import load_shipped
from mri_diffusion.methods.unit_scan import denoise_unit
from mri_diffusion.noise.models import add_noise
from mri_diffusion.noise.sigma import NoiseEstimate
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import Scan, auto_mask

shared = Path(__file__).resolve().parents[2] / 'shared' / 'data'
CLEAN = np.maximum(load_t1(downsample=2).data, 0).astype(np.float32)[4:84, 10:80, 32:64]
MASK = auto_mask(CLEAN)
SIGMA = float(np.median(CLEAN[MASK])) / 10
NET = load_shipped('unet')[0]


HERE = np.s_[16:56, 10:50]  # Enough for a level, and quickly denoised


def part(x):
    return np.ascontiguousarray(x[HERE])


def denoised(x, sigma, **how):
    return denoise_unit(x, sigma, NET, copies=1, quiet=True, **how)


def noisy(kind='rician', coils=1, sigma=SIGMA, width=0.0, seed=1):
    return add_noise(CLEAN, sigma, kind, coils, correlation=width, gen=generator(seed))


@pytest.mark.parametrize(
    'name, told, coils',
    [
        ('unet', 0.7, 1),
        ('unet', 1.0, 8),
        ('unet', 1.3, 1),
        ('diffusion', 0.7, 8),
        ('diffusion', 1.0, 1),
        ('diffusion', 1.3, 8),
    ],
)
def test_the_true_level_is_seen(name, told, coils):
    "Every pair of network, told level and coils"
    net = load_shipped(name)[0]
    x = noisy('ncchi' if coils > 1 else 'rician', coils)
    seen, neighbours = level_seen(net, x, told * SIGMA, n_coils=coils)
    assert abs(told * seen - 1) < 0.12 and neighbours < 0.08


def test_a_map_is_corrected_as_a_whole():
    map_ = (SIGMA * np.linspace(0.7, 1.4, CLEAN.shape[0])[:, None, None]).astype(np.float32)
    map_ = np.broadcast_to(map_, CLEAN.shape).copy()
    x = noisy(sigma=map_)
    assert abs(level_seen(NET, x, map_)[0] - 1) < 0.1
    assert abs(level_seen(NET, x, 0.7 * map_)[0] * 0.7 - 1) < 0.12


def test_correlated_noise_and_what_was_denoised_are_left():
    for x in (noisy(width=0.8), noisy(width=1.5), nlmeans(noisy(), SIGMA)):
        for told in (0.7, 1.0, 1.3):
            assert checked_level(NET, x, told * SIGMA) == (1.0, '')


def test_one_witness_is_not_enough(monkeypatch):
    x, told = noisy(), (0.7 * SIGMA, 1.3 * SIGMA)
    seen = {s: level_seen(NET, x, s) for s in told}
    monkeypatch.setattr(level, 'level_seen', lambda net, noisy, s, *a: seen[s])

    def says(number, low=None):
        found = NoiseEstimate(number * SIGMA, 'object')
        found.low, found.high = (number if low is None else low) * SIGMA, 5 * SIGMA
        monkeypatch.setattr(level, 'estimate_sigma', lambda *a, **k: found)

    assert checked_level(NET, x, 0.7 * SIGMA)[0] > 1.3
    says(0.7)
    assert checked_level(NET, x, 0.7 * SIGMA) == (1.0, '')  # The estimate is what was told
    says(0.5)
    assert checked_level(NET, x, 0.7 * SIGMA) == (1.0, '')  # It says the contrary
    says(0.85)
    assert abs(checked_level(NET, x, 0.7 * SIGMA)[0] - 0.85 / 0.7) < 1e-3  # The smaller correction
    says(0.0)
    assert checked_level(NET, x, 1.3 * SIGMA) == (1.0, '')  # It found nothing
    says(1.3, low=1.2)
    assert checked_level(NET, x, 1.3 * SIGMA) == (1.0, '')  # So low is not in the interval
    says(1.3, low=1.1)
    assert abs(checked_level(NET, x, 1.3 * SIGMA)[0] - 1.1 / 1.3) < 1e-3  # Down to its end
    says(1.3, low=0.5)
    assert abs(1.3 * checked_level(NET, x, 1.3 * SIGMA)[0] - 1) < 0.1

    def fails(*a, **k):
        raise InputError('no background')

    monkeypatch.setattr(level, 'estimate_sigma', fails)
    assert checked_level(NET, x, 0.7 * SIGMA) == (1.0, '')


def test_the_residual_alone_is_not_enough_either(monkeypatch):
    monkeypatch.setattr(level, 'level_seen', lambda *a, **k: (1.05, 0.0))
    monkeypatch.setattr(level, 'estimate_sigma', lambda *a, **k: pytest.fail('not needed'))
    assert checked_level(NET, noisy(), SIGMA) == (1.0, '')


@pytest.mark.parametrize(
    'x,s',
    [
        (np.full((20, 20, 20), 5, np.float32), 1.0),
        (np.zeros((20, 20, 20), np.float32), 1.0),
        (noisy()[:9, :9, :9], SIGMA),
        (noisy()[:, :, :1], SIGMA * 40),
        (noisy(), 0.0),
        (noisy(), 100 * SIGMA),
    ],
)
def test_where_nothing_can_be_said_nothing_is(x, s):
    assert checked_level(NET, np.ascontiguousarray(x), s) == (1.0, '')


def test_slices_and_thin_slabs_are_judged_too():
    for depth in (1, 3):
        x = np.ascontiguousarray(noisy()[:, :, 10 : 10 + depth])
        seen = level_seen(NET, x, 0.7 * SIGMA)[0]
        assert seen == 1.0 or 1.15 < seen < 1.75


def test_bad_input_is_refused():
    with pytest.raises(InputError, match='shape'):
        level_seen(NET, np.zeros((4, 4), np.float32), 1.0)
    with pytest.raises(InputError, match='kind'):
        level_seen(NET, CLEAN, 1.0, 'other')


@pytest.mark.parametrize('told', [0.7, 1.3])
def test_a_level_that_is_told_wrong_costs_little_and_the_note_says_so(told):
    x = noisy()
    right = denoised(x, SIGMA)
    found = denoised(x, told * SIGMA)
    kept = denoised(x, told * SIGMA, check_sigma=False)
    score = lambda r: psnr(r['denoised'], CLEAN, MASK)
    assert right['notes'] == [] and kept['notes'] == []
    assert 'times as strong as told' in found['notes'][0]
    assert score(found) > score(right) - 0.2 and score(kept) < score(found) - 0.2


def test_each_volume_of_a_series_is_judged_by_itself():
    series = np.stack([part(noisy(seed=1)), part(noisy(seed=2))], -1)
    found = denoised(series, np.array([SIGMA, 0.7 * SIGMA], np.float32))
    assert len(found['notes']) == 1 and 'times as strong' in found['notes'][0]
    one = denoised(series[..., 1], 0.7 * SIGMA)['denoised']
    assert np.array_equal(found['denoised'][..., 1], one)


def test_coils_are_told_to_the_network():
    x, clean, mask = part(noisy('ncchi', 8)), CLEAN[HERE], MASK[HERE]
    right, wrong = (denoised(x, SIGMA, n_coils=n)['denoised'] for n in (8, 1))
    assert psnr(right, clean, mask) > psnr(wrong, clean, mask) + 0.5
    scan = Scan.from_array(x)
    by_name = denoise(scan, sigma=SIGMA, method='unet', n_coils=8, copies=1, quiet=True)
    assert np.allclose(by_name.denoised.data, right, atol=1e-5 * right.max())


def test_the_check_can_be_left_out_by_name():
    scan = Scan.from_array(part(noisy()))
    told = dict(sigma=0.7 * SIGMA, method='unet', copies=1, quiet=True)
    with_, without = (denoise(scan, **told, check_sigma=c) for c in (True, False))
    assert any('times as strong' in n for n in with_.meta['notes'])
    assert not any('times as strong' in n for n in without.meta['notes'])


def test_the_level_that_was_used_stands_in_the_result():
    scan = Scan.from_array(part(noisy()))
    found = denoise(scan, sigma=0.7 * SIGMA, method='unet', copies=1, quiet=True)
    assert abs(found.sigma / SIGMA - 1) < 0.1
    assert found.meta['sigma_from'] == 'given by the caller, corrected'
    kept = denoise(scan, sigma=SIGMA, method='unet', copies=1, quiet=True)
    assert kept.sigma == SIGMA and kept.meta['sigma_from'] == 'given by the caller'
    map_ = np.full(scan.shape, 0.7 * SIGMA, np.float32)
    of_map = denoised(part(noisy()), map_)['sigma_used']
    assert (
        of_map.shape == scan.shape
        and np.ptp(of_map / map_) < 1e-4
        and of_map[0, 0, 0] > 1.2 * map_[0, 0, 0]
    )
    pair = np.stack([part(noisy(seed=1)), part(noisy(seed=2))], -1)
    for s, shape in ((0.7 * SIGMA, (2,)), (map_, (*scan.shape, 2))):
        assert denoised(pair, s)['sigma_used'].shape == shape
    assert 'sigma_used' not in denoised(pair, SIGMA)


@pytest.mark.skipif(not shared.exists(), reason='shared/data is not on this machine')
def test_an_estimated_level_is_not_raised_and_that_of_real_repeats_is_kept():
    x = Scan.load(shared / 'repeats' / 'brain_b100_x6.nii.gz').data[..., 0]
    for image in (x, Scan.load(shared / 't1' / 't1.nii.gz').data[:, 60:140]):
        image = np.ascontiguousarray(image)
        sigma = float(level.estimate_sigma(image).sigma)
        by = checked_level(NET, image, sigma)[0]
        assert by == 1.0 if image.shape == x.shape else 0.75 < by <= 1.0


def test_an_estimate_that_is_too_high_is_lowered_inside_its_interval():
    task = t1_task(10.0, 1000, 'rician')
    found = level.estimate_sigma(task.noisy.data)
    assert found.low < task.sigma < found.high and found.number > 1.25 * task.sigma
    by, note = checked_level(NET, task.noisy.data, found.number)
    assert abs(by * found.number / task.sigma - 1) < 0.1 and 'times as strong' in note


def test_fine_tuning_takes_the_level_as_it_is_told_if_asked():
    x = part(noisy())
    notes = lambda check: denoised(x, 0.7 * SIGMA, tune=1, check_sigma=check)['notes']
    assert any('times as strong' in n for n in notes(True))
    assert not any('times as strong' in n for n in notes(False))


def test_a_correction_that_is_cut_is_called_a_bound():
    note = checked_level(NET, noisy(), 0.4 * SIGMA)[1]
    assert 'at least 1.70 times' in note


def test_a_magnitude_of_eight_coils_told_as_one_keeps_its_level():
    x = noisy('ncchi', 8)  # Its background stands 4 sigma above zero, and varies less
    assert checked_level(NET, x, SIGMA) == (1.0, '')


def test_noise_that_differs_between_bright_and_dark_tissue_is_left():
    rng = np.random.default_rng(0)
    wide = np.where(np.median(CLEAN[MASK]) < CLEAN, 1.6, 0.8).astype(np.float32) * SIGMA
    x = (CLEAN + wide * rng.normal(size=CLEAN.shape)).astype(np.float32)
    for told in (0.7, 1.0, 1.4):
        assert checked_level(NET, x, told * SIGMA, 'additive') == (1.0, '')
