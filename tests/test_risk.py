"""Risk estimates against closed forms: linear filters, white and correlated noise, masks, maps and
series; the level that UNSURE implies"""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mri_diffusion.core import InputError, generator
from mri_diffusion.learn.risk import (
    DrawProbe,
    blind,
    choose,
    draw_probe,
    probe_of,
    recorrupted,
    sure,
    unsure,
)
from mri_diffusion.noise.components import draw_noise

SHAPE, SIGMA = (40, 36), 1.7
X, Y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing='ij')
CLEAN = 8 * np.sin(X / 5) * np.cos(Y / 4) + 6 * (X > 20)


def blurred(width):
    return lambda y: gaussian_filter(y, width, mode='wrap')


def middle(f, shape=SHAPE):
    "Kernel of a filter, its middle first"
    d = np.zeros(shape)
    d[(0,) * len(shape)] = 1
    return f(d)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape)


def within(values, expected, slack=0.0):
    "Mean within four standard errors"
    return (
        abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / np.sqrt(len(values)) + slack
    )


def wave_kernel(reach=2):
    "Autocorrelation of noise averaged over 2 x 1 pixels"
    k = np.zeros((2 * reach + 1,) * 2)
    k[reach, reach], k[reach + 1, reach], k[reach - 1, reach] = 1, 0.5, 0.5
    return k


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('shape', [(20, 24), (12, 10, 6), (8, 9, 5, 3)])
@pytest.mark.parametrize('kernel', [None, wave_kernel()])
def test_identity_has_the_risk_of_the_noise(shape, kernel, dtype):
    r = sure(lambda y: y, 50 * noise(0, shape).astype(dtype), SIGMA, kernel, probes=2, step=0.5)
    assert (
        r.value == pytest.approx(SIGMA**2, rel=2e-4)
        and r.trace == pytest.approx(1, rel=1e-4)
        and r.residual == 0
    )


def test_constant_denoiser_has_no_trace():
    y = CLEAN + SIGMA * noise(1)
    r = sure(lambda y: np.full_like(y, 3.0), y, SIGMA)
    assert (
        r.trace == 0 and r.error == 0 and r.value == pytest.approx(((y - 3) ** 2).mean() - SIGMA**2)
    )


@pytest.mark.parametrize('width', [0.4, 0.7, 1.5])
def test_stein_is_unbiased_for_a_linear_filter(width):
    f = blurred(width)
    a, bias = middle(f), ((f(CLEAN) - CLEAN) ** 2).mean()
    found = [sure(f, CLEAN + SIGMA * noise(s), SIGMA, probes=1, seed=s) for s in range(80)]
    assert within([r.value for r in found], bias + SIGMA**2 * (a**2).sum())
    assert within([r.trace for r in found], a[0, 0])


def test_standard_error_over_probes_is_honest():
    y = CLEAN + SIGMA * noise(0)
    found = [sure(blurred(0.7), y, SIGMA, probes=4, seed=s) for s in range(60)]
    scatter = np.std([r.value for r in found], ddof=1)
    assert 0.75 < np.sqrt(np.mean([r.error**2 for r in found])) / scatter < 1.33


def test_correlated_noise_needs_correlated_probes():
    f, k = blurred(0.7), wave_kernel()
    a = middle(f)
    power, inner = (
        sum(0.5 ** abs(d) * np.sum(np.roll(p, d, 0) * q) for d in (-1, 0, 1))
        for p, q in ((a, a), (a, np.eye(1, a.size).reshape(a.shape)))
    )
    bias, told, white = ((f(CLEAN) - CLEAN) ** 2).mean(), [], []
    for s in range(60):
        w = noise(s)
        y = CLEAN + SIGMA * (w + np.roll(w, 1, 0)) / np.sqrt(2)
        told.append(sure(f, y, SIGMA, k, probes=1, seed=s).value)
        white.append(sure(f, y, SIGMA, probes=1, seed=s).value)
    assert within(told, bias + SIGMA**2 * power)
    assert (
        within(np.subtract(white, told), 2 * SIGMA**2 * (a[0, 0] - inner))
        and np.mean(told) - np.mean(white) > 0.2 * SIGMA**2
    )


def test_probe_has_the_covariance_of_the_noise():
    level = np.linspace(1, 2, 24)[:, None, None] * np.ones((24, 20, 6))
    b = np.stack([draw_probe(level.shape, level, wave_kernel(), generator(s)) for s in range(200)])
    assert np.allclose(b.std(0).mean((1, 2)), level[:, 0, 0], rtol=0.04)
    unit = b / level
    rho = [(unit * np.roll(unit, 1, ax)).mean() for ax in (1, 2, 3)]
    assert abs(rho[0] - 0.5) < 0.01 and max(map(abs, rho[1:])) < 0.01
    signs = draw_probe((30, 30, 4, 5), 2.0, gen=generator(0), signs=True)
    assert set(np.unique(signs)) == {-2, 2} and signs.shape == (30, 30, 4, 5)


def test_probes_of_a_seed():
    "A square kernel is correlated within slices and white across them, for a scan as for a patch"
    kernel = wave_kernel().astype(np.float32)
    cube = np.zeros((5, 5, 5), np.float32)
    cube[..., 2] = kernel
    expected = draw_noise((9, 8, 3), torch.as_tensor(cube), generator(4)).numpy()
    assert np.array_equal(probe_of((9, 8, 3), kernel, 4), expected)
    white = torch.randn((9, 8, 3), generator=generator(4)).numpy()
    assert np.array_equal(probe_of((9, 8, 3), None, 4), white)
    patch = DrawProbe(kernel)(dict(noisy=torch.zeros(2, 9, 8)), generator(4))['probe']
    drawn = draw_noise((1, 9, 8, 1), torch.as_tensor(cube), generator(4))[..., 0]
    assert torch.equal(patch, drawn)


def test_a_map_of_sigma_and_a_mask():
    level = np.where(X < 20, 1.0, 3.0)
    mask = (X > 4) & (X < 36) & (Y > 4)
    y, f = CLEAN + level * noise(0), blurred(0.7)
    assert sure(lambda y: y, y, level, mask=mask).value == pytest.approx(
        (level[mask] ** 2).mean(), rel=1e-4
    )
    gap = [
        sure(f, z, level, mask=mask, probes=2, seed=s).value - ((f(z) - CLEAN)[mask] ** 2).mean()
        for s in range(80)
        for z in [CLEAN + level * noise(s)]
    ]
    assert within(gap, 0)
    assert sure(f, y, level, mask=np.where(mask, 2, 0)).value == sure(f, y, level, mask=mask).value


def test_wrong_sigma_is_off_by_the_closed_form():
    y = CLEAN + SIGMA * noise(3)
    right, wrong = (sure(blurred(0.7), y, s) for s in (SIGMA, 1.1 * SIGMA))
    assert wrong.value == pytest.approx(right.at(1.1 * SIGMA), abs=1e-3)
    assert wrong.value - right.value == pytest.approx(
        0.21 * SIGMA**2 * (2 * right.trace - 1), abs=1e-3
    )


def low_pass(y):
    "Keeps 49 spatial frequencies: a projection"
    f = [np.abs(np.fft.fftfreq(n, 1 / n)) < 4 for n in y.shape]
    return np.fft.ifft2(np.fft.fft2(y) * np.outer(*f)).real


def test_unsure_finds_sigma_where_theory_says_so():
    signal, share = low_pass(20 * noise(9)), 49 / (40 * 36)
    found = [unsure(low_pass, signal + SIGMA * noise(s), probes=2, seed=s) for s in range(40)]
    assert within([r.value for r in found], SIGMA**2 / (1 - share), slack=1e-3) and within(
        [r.matched**2 for r in found], SIGMA**2, slack=1e-3
    )
    tau = 1.2  # independent Gaussian values: the best denoiser is a gain
    gain = tau**2 / (tau**2 + SIGMA**2)
    found = [
        unsure(lambda y: gain * y, tau * noise(s + 100) + SIGMA * noise(s), probes=1, seed=s)
        for s in range(40)
    ]
    assert within([r.matched**2 for r in found], SIGMA**2) and within(
        [r.level**2 for r in found], SIGMA**2 + tau**2
    )


def test_unsure_does_not_see_the_length_of_a_step():
    y = CLEAN + SIGMA * noise(0)
    full, half = unsure(low_pass, y), unsure(lambda y: y + 0.4 * (low_pass(y) - y), y)
    assert half.value == pytest.approx(full.value, rel=0.01) and full.level > SIGMA * 0.95


@pytest.mark.parametrize('alpha', [0.3, 1.0])
def test_recorruption_is_the_risk_at_the_higher_level(alpha):
    f = blurred(0.7)
    expected = ((f(CLEAN) - CLEAN) ** 2).mean() + (1 + alpha**2) * SIGMA**2 * (middle(f) ** 2).sum()
    assert within(
        [
            recorrupted(f, CLEAN + SIGMA * noise(s), SIGMA, probes=1, alpha=alpha, seed=s).value
            for s in range(80)
        ],
        expected,
    )
    assert within(
        [
            recorrupted(
                lambda y: y, CLEAN + SIGMA * noise(s), SIGMA, probes=1, alpha=alpha, seed=s
            ).value
            for s in range(80)
        ],
        (1 + alpha**2) * SIGMA**2,
    )


def test_blind_loss_of_an_average_of_neighbours():
    "The identity made blind is the mean of four neighbours: variance sigma^2/4 and the curvature"
    inner = np.zeros(SHAPE, bool)
    inner[2:-2, 2:-2] = True
    mean = sum(np.roll(CLEAN, s, ax) for s in (1, -1) for ax in (0, 1)) / 4
    expected = ((mean - CLEAN)[inner] ** 2).mean() + SIGMA**2 / 4
    assert within(
        [blind(lambda y: y, CLEAN + SIGMA * noise(s), SIGMA, mask=inner).value for s in range(60)],
        expected,
        slack=0.01,
    )
    y = CLEAN + SIGMA * noise(0)
    assert blind(lambda y: y, y).value == pytest.approx(
        blind(lambda y: y, y, SIGMA).value + SIGMA**2, rel=1e-6
    )


def test_choice_is_the_least_and_repeats():
    y = CLEAN + SIGMA * noise(0)
    candidates = {w: blurred(w) for w in (0, 0.5, 0.8, 1.2, 2.0)}
    true = {w: ((f(y) - CLEAN) ** 2).mean() for w, f in candidates.items()}
    best, table = choose(candidates, y, sigma=SIGMA)
    assert best == min(true, key=true.get) == table['risk'].idxmin() and list(table.index) == list(
        candidates
    )
    assert table['alike'][best] and not table['alike'][2.0] and table['behind'][best] == 0
    assert table.equals(choose(candidates, y, sigma=SIGMA)[1])
    for how in ('recorrupted', 'blind'):
        assert choose(candidates, y, how, sigma=SIGMA)[0] in candidates


@pytest.mark.parametrize(
    'call, said',
    [
        (lambda y: sure(lambda y: y[1:], y), 'the denoiser gives shape'),
        (lambda y: sure(lambda y: y * np.nan, y), 'not finite'),
        (lambda y: sure(np.copy, y, 0.0), 'sigma above 0'),
        (lambda y: sure(np.copy, y, np.ones(7)), 'a number or a map'),
        (lambda y: sure(np.copy, y, np.ones((3, 4))), 'a number or a map'),
        (lambda y: sure(np.copy, y, mask=np.zeros(SHAPE)), 'not empty'),
        (lambda y: sure(np.copy, y, kernel=np.ones((2, 2))), 'odd square'),
        (lambda y: sure(np.copy, y, probes=0), 'at least one probe'),
        (lambda y: unsure(np.copy, y), 'changes nothing'),
        (lambda y: recorrupted(np.copy, y, alpha=0), 'alpha above 0'),
        (lambda y: blind(np.copy, y, stride=1), 'at least 2'),
        (lambda y: choose({}, y), 'no candidates'),
        (lambda y: choose({'a': np.copy}, y, 'guess'), 'choose from'),
    ],
)
def test_bad_input_is_one_clear_line(call, said):
    with pytest.raises(InputError, match=said) as e:
        call(CLEAN)
    assert '\n' not in str(e.value)
