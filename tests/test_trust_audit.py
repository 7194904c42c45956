"The audit beyond its page: limits made again, new scenes, units, axes, and what the report says"

import re
from html import unescape
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.audit import SAY, TITLES, audit
from mri_diffusion.judge.calibration import (
    CALIBRATED,
    GOOD,
    NUMBERS,
    answer,
    error_rates,
    make_case,
    run_cases,
    set_limits,
    simulation_maps,
    true_error,
)
from mri_diffusion.judge.report import write_report
from mri_diffusion.judge.residual_numbers import gaussian_kernel, residual_numbers
from mri_diffusion.learn.tasks import t1_task
from mri_diffusion.noise.correlation import noise_kernel
from mri_diffusion.noise.models import add_noise, rician_mean
from mri_diffusion.noise.rician_bias import correct_bias
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def maps():
    return simulation_maps()


def test_limits_are_made_again_at_a_smaller_size():
    setting = run_cases(range(0, 20, 2), GOOD)
    limits = set_limits(setting, CALIBRATED['rate'])
    assert set(limits) == set(CALIBRATED['limits']) == set(NUMBERS) == set(SAY) == set(TITLES)
    for name, stored in CALIBRATED['limits'].items():
        assert 0.2 * stored <= limits[name] <= 1.5 * stored, (
            name,
            limits[name],
            stored,
        )  # a fifth of the scenes: smaller tails, none given up


def test_new_scenes():
    rates = error_rates(run_cases(range(2000, 2004)), CALIBRATED['limits'])
    for name in ('truth', 'little left', 'noise of its own'):
        assert rates['no fault found'][name] == 1, name
    for name in (
        'scaled',
        'striped',
        'over-smoothed',
        'under-denoised',
        'texture added',
        'one slice noisy',
    ):
        assert rates['no fault found'][name] == 0, name


@pytest.fixture(scope='module')
def white(maps):
    return make_case(501, maps, (12, 12), (0.0,))


def test_units_do_not_matter(white):
    d = answer('over-smoothed', white)
    a, b = (
        audit(white.noisy, d, white.sigma, white.mask),
        audit(800 * white.noisy, 800 * d, 800 * white.sigma, white.mask),
    )
    assert (
        a.verdict == b.verdict
        and a.reasons == b.reasons
        and np.allclose(
            [f.value for f in a.findings],
            [f.value for f in b.findings],
            rtol=1e-3,
            atol=1e-3,
            equal_nan=True,
        )
    )


def test_axes_do_not_matter_where_slices_are_not_meant(white):
    d = answer('blobs added', white)
    one, two = (
        residual_numbers(f(white.noisy), f(d), white.sigma, f(white.mask))
        for f in (lambda x: x, lambda x: np.ascontiguousarray(x[::-1].transpose(1, 0, 2)))
    )
    for name in set(NUMBERS) - {'slice'}:
        assert np.isclose(one[name][0], two[name][0], rtol=1e-4, atol=1e-4, equal_nan=True), name


def test_sigma_may_be_a_map_or_one_a_volume(white):
    d, full = answer('little left', white), np.full(white.noisy.shape, white.sigma)
    pair = [np.stack([x, 2 * x], -1) for x in (white.noisy, d)]
    for noisy, denoised, sigma in (
        (white.noisy, d, full),
        (*pair, [white.sigma, 2 * white.sigma]),
        (*pair, np.stack([full, 2 * full], -1)),
    ):
        assert audit(noisy, denoised, sigma, white.mask).verdict == 'no fault found'
    assert (
        audit(*pair, white.sigma, white.mask).verdict != 'no fault found'
    )  # half of the right level for the second


def test_the_correlation_of_the_noise_is_allowed_for(maps):
    case = make_case(502, maps, (15, 15), (0.8,))
    d = answer('little left', case)
    assert (
        audit(case.noisy, d, case.sigma, case.mask, gaussian_kernel(0.8)).verdict
        == 'no fault found'
    )
    assert audit(case.noisy, d, case.sigma, case.mask).verdict == 'do not trust'


def test_gaussian_noise_has_no_floor(white):
    y = np.asarray(add_noise(white.clean, white.sigma, 'gaussian', gen=generator(1)), float)
    a = audit(y, white.clean, white.sigma, white.mask, kind='gaussian')
    assert a.verdict == 'no fault found' and not np.isfinite(
        {f.name: f.value for f in a.findings}['floor']
    )


@pytest.fixture(scope='module')
def task():
    return t1_task(snr=10.0, downsample=3)


@pytest.fixture(scope='module')
def denoisers(task):
    "name -> (denoised, words that the report must hold; none for a good one)"
    clean, noisy, s = (np.asarray(v, float) for v in (task.clean.data, task.noisy.data, task.sigma))
    left = clean + 0.1 * (noisy - rician_mean(clean, s))
    own = clean + 0.2 * np.random.default_rng(3).normal(size=clean.shape) * s
    fixed = lambda d: np.asarray(correct_bias(np.maximum(d, 0.0), float(s), 1, 'koay'))
    bumps, grid = 0, np.indices(clean.shape)
    deep = np.argwhere(ndimage.binary_erosion(task.mask, iterations=4))
    for c in np.random.default_rng(0).permutation(deep)[:3]:
        bumps = bumps + np.exp(-((grid - c.reshape(3, 1, 1, 1)) ** 2).sum(0) / 8)
    return dict(
        good=(left, None),
        independent=(own, None),
        smoothed=(fixed(ndimage.gaussian_filter(noisy, 1.2)), 'along edges'),
        hallucinating=(left + 3 * s * bumps, 'In one place something was added'),
        biased=(1.06 * left, 'made brighter in proportion'),
        floor=(np.asarray(rician_mean(left, s)), 'noise floor was kept'),
    )


@pytest.mark.parametrize(
    'name', ['good', 'independent', 'smoothed', 'hallucinating', 'biased', 'floor']
)
def test_the_report_says_so(task, denoisers, tmp_path, name):
    denoised, words = denoisers[name]
    task.noisy.mask = task.mask
    result = SimpleNamespace(
        noisy=task.noisy,
        denoised=task.noisy.with_data(denoised.astype(np.float32)),
        sigma=task.sigma,
        std=None,
        meta=dict(method=name),
    )
    page = write_report(result, tmp_path / 'r.html').read_text(encoding='utf-8')
    verdict = unescape(
        re.search(r'<div class="verdict \w+" id="verdict">.*?</div>', page, re.S).group()
    )
    if words is None:
        assert 'No fault found' in verdict, verdict
    else:
        assert words in verdict and ('Look' if name == 'floor' else 'Do not trust') in verdict, (
            verdict
        )
    assert page.index('id="verdict"') < page.index('Pictures</h2>') and page.count(
        '<th scope="row">'
    ) >= len(NUMBERS)


@pytest.mark.parametrize(
    'scene, filter', [(1004, 'nlmeans'), (1026, 'nlmeans'), (1002, 'lee'), (1011, 'wiener')]
)
def test_the_report_of_a_filter_that_did_well(maps, tmp_path, scene, filter):
    "Filters near the truth pass, on scenes that set no limit; the same, too strong, do not"
    case = make_case(scene, maps)
    noisy = Scan.from_array(case.noisy, mask=case.mask)
    said = {}
    for name, denoised in (
        ('good', answer(filter, case)),
        ('strong', answer('over-smoothed', case)),
    ):
        result = SimpleNamespace(
            noisy=noisy,
            denoised=noisy.with_data(np.asarray(denoised, np.float32)),
            sigma=case.sigma,
            std=None,
            meta=dict(method=filter),
        )
        page = write_report(result, tmp_path / f'{name}.html').read_text(encoding='utf-8')
        said[name] = unescape(
            re.search(r'<div class="verdict \w+" id="verdict"><p><b>(.*?)</b>', page).group(1)
        )
    assert true_error(answer(filter, case), case)[0] < 0.6 and said == dict(
        good='No fault found', strong='Do not trust'
    )


def refused(f, *args, **kwargs):
    with pytest.raises(InputError) as e:
        f(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    'changed, words',
    [
        (dict(sigma=None), 'no noise level'),
        (dict(sigma=0.0), 'sigma must be above zero'),
        (dict(sigma=[0.1, 0.2]), 'give a number, one a volume, or a map'),
        (dict(denoised=np.zeros((2, 3, 4))), 'of one shape'),
        (dict(denoised=np.nan), 'NaN or infinite'),
        (dict(mask=np.ones((2, 3, 4), bool)), 'on the same grid'),
        (dict(mask='nine voxels'), 'at least 500'),
        (dict(kernel=np.ones((4, 4))), 'odd length'),
        (dict(kind='poisson'), 'gaussian, rician and ncchi'),
    ],
)
def test_what_the_audit_refuses(white, changed, words):
    given = dict(noisy=white.noisy, denoised=white.clean, sigma=0.1, mask=white.mask) | changed
    if np.ndim(given['denoised']) == 0:
        given['denoised'] = np.full_like(white.clean, np.nan)
    if isinstance(given['mask'], str):
        given['mask'] = np.arange(white.mask.size).reshape(white.mask.shape) < 9
    assert words in refused(audit, **given)


def test_what_the_calibration_refuses(white):
    assert "'magic' is not known; choose from truth" in refused(answer, 'magic', white)
    few = pd.DataFrame(dict(good=[True]))
    assert 'run more cases' in refused(set_limits, few)


def test_wrong_outputs_are_not_trusted(white):
    y, d, s, m = white.noisy, white.clean, white.sigma, white.mask
    for wrong in (0 * d, np.full_like(d, d.mean()), -d):
        assert audit(y, wrong, s, m).verdict == 'do not trust'
    nothing = audit(y, y, s, m)
    assert nothing.verdict == 'look'
    assert nothing.reasons[0].startswith('Noise was left in: only 0.')
    three = audit(np.stack([y] * 3, -1), np.stack([d, d, 1.2 * d], -1), s, m)
    assert three.verdict == 'look' and three.reasons[0].startswith('Volume 2')


@pytest.mark.parametrize(
    'wrong',
    [
        lambda d: 0 * d,
        lambda d: np.full_like(d, d.mean()),
        lambda d: -d,
        lambda d: np.roll(d, 3, 0),
    ],
)
def test_one_destroyed_volume_of_twenty_is_found(white, wrong):
    "Volume 4 is none of the eight that are always judged; the medians do not move"
    y, d, s, m = white.noisy, white.clean, white.sigma, white.mask
    noisy, good = np.stack([y] * 20, -1), np.stack([0.1 * y + 0.9 * d] * 20, -1)
    hurt = good.copy()
    hurt[..., 4] = wrong(d)
    calm, found = audit(noisy, good, s, m), audit(noisy, hurt, s, m)
    assert found.verdict == 'look' and found.reasons[0].startswith('Volume 4')
    assert [f.value for f in found.findings] == [f.value for f in calm.findings]


def test_what_the_report_refuses(task, tmp_path):
    task.noisy.mask = task.mask
    result = SimpleNamespace(
        noisy=task.noisy, denoised=task.clean, sigma=task.sigma, std=None, meta={}
    )
    page = write_report(result, tmp_path / 'r.html')
    assert 'end the name of a report in .html' in refused(write_report, result, tmp_path / 'r.pdf')
    assert 'r.html' in refused(write_report, result, page)
    cut = task.clean.data[:-1]
    said = refused(write_report, result, tmp_path / 'new.html', clean=cut)
    assert 'they must agree' in said
    result.denoised = Scan.from_array(cut)
    assert 'on one grid' in refused(write_report, result, tmp_path / 'new.html')
    assert [p.name for p in tmp_path.iterdir()] == ['r.html']


def test_the_kernel_of_the_scan_serves(task):
    left = np.asarray(
        task.clean.data + 0.1 * (task.noisy.data - rician_mean(task.clean.data, task.sigma))
    )
    kernel, _ = noise_kernel(task.noisy.data, task.mask)
    assert audit(task.noisy.data, left, task.sigma, task.mask, kernel).verdict == 'no fault found'
