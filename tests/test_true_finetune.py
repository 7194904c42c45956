"Fine-tuning of a trained network: unbiased pairs, a part held out, never worse, same bits twice"

import numpy as np
import pytest
import torch

from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.scores import psnr
from mri_diffusion.learn.risk import draw_probe
from mri_diffusion.methods import finetune
from mri_diffusion.methods.finetune import (
    Tuning,
    _correlation,
    _place,
    _recorrupted,
    _sides,
    _slab,
    _true_level,
    _with_lesions,
    finetune_pairs,
    finetune_scan,
    holds_in_half,
    pair_sigma,
)
from mri_diffusion.methods.pretrained import denoise_volume
from mri_diffusion.methods.shipped import load_shipped, shipped
from mri_diffusion.nets.unit_unet import make_net
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1

WHITE = np.ones((1, 1))


@pytest.fixture(scope='module')
def head():
    "Clean, noisy, sigma: a part of the T1 template at 2 mm, SNR about 10"
    clean = np.maximum(load_t1(downsample=2).data, 0).astype(np.float32)[20:76, 30:70, 30:54]
    sigma = float(np.median(clean[clean > clean.max() / 5])) / 10
    return clean, add_noise(clean, sigma, 'rician', gen=generator(1)), sigma


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_lesions_are_put_in_where_the_noise_is_gaussian_and_count_more():
    z, weight = np.zeros((24, 24, 24), np.float32), np.ones((24, 24, 24), np.float32)
    weight[:12] = 0  # background
    many = [_with_lesions(z, weight, 1.0, np.random.default_rng(k)) for k in range(40)]
    some = [(x, w) for x, w in many if np.any(x)]
    assert 20 < len(some) < 40 and all(x.dtype == w.dtype == np.float32 for x, w in many)
    for x, w in some:
        assert not x[:12].any() and not w[:12].any() and set(np.unique(w[12:])) <= {1, 4}
        assert np.array_equal(w[12:] == 4, np.abs(x[12:]) > 0.3)
    assert max(x.max() for x, _ in some) > 2 and min(x.min() for x, _ in some) < -2
    assert not z.any() and weight.max() == 1  # what was given stays as it was


@pytest.mark.parametrize('correlated', [False, True])
def test_what_is_seen_and_what_is_taught_have_independent_noise(correlated, monkeypatch):
    "And with white noise on a correlated scan they do not: the fault that the kernel mends"
    monkeypatch.setattr(finetune, '_with_lesions', lambda z, weight, *_: (z, weight))
    kernel = np.zeros((3, 3, 3), np.float32)
    kernel[:, 1, 1] = 0.4, 1, 0.4
    kernel = kernel if correlated else None
    z = draw_probe((96, 48, 32), 1.0, kernel, generator(3))
    everywhere = np.ones(z.shape, bool)

    def lags(used):
        draw = _recorrupted(z, everywhere, everywhere, _slab(z.shape), 4, used, 1.0, 5)
        pairs = [draw(k) for k in range(40)]
        seen = torch.cat([b.noisy for b in pairs]) * pairs[0].scale
        goal = torch.cat([b.target for b in pairs])
        cut = lambda a, b: float((a * b).mean())
        return cut(seen, goal), cut(seen[:, :, 1:], goal[:, :, :-1])

    assert np.abs(lags(kernel)).max() < 0.03
    if correlated:
        assert lags(None)[1] > 0.3


def test_the_slab_is_never_in_a_patch():
    rng = np.random.default_rng(2)
    for shape in ((40, 25, 9), (20, 20, 1), (30, 200, 64)):
        axis, low, high = _slab(shape)
        sides = _sides(shape, 4)
        for _ in range(50):
            at = _place(shape, sides, (axis, low, high), rng)[axis]
            assert at.stop <= low or (at.start >= high and at.stop <= shape[axis])


def test_gain_that_is_told_is_the_true_one(head):
    "From a network that changes nothing, on Gaussian noise; start unchanged; same bits twice"
    clean, _, sigma = head
    noisy = add_noise(clean, sigma, 'gaussian', gen=generator(2))
    start = make_net('tiny', 1)
    how = dict(kind='additive', kernel=WHITE, steps=25, lr=5e-3, quiet=True)
    tuned, found = finetune_scan(start, noisy, sigma, **how)
    assert same(start, make_net('tiny', 1))
    before, after = (denoise_volume(n, noisy, sigma, 'additive') for n in (start, tuned))
    fall = (((before - clean) ** 2).mean() - ((after - clean) ** 2).mean()) / sigma**2
    assert found.share > 0 and fall > 0.3
    assert abs(found.gain - fall) < 0.15
    assert len(found.losses) == 25 and 'held out' in found.notes[-1]


def test_a_function_of_its_seed(head):
    _, noisy, sigma = head
    how = dict(kernel=WHITE, steps=8, lr=5e-3, quiet=True)
    a, b, c = (finetune_scan(make_net('tiny'), noisy, sigma, **how, seed=s)[0] for s in (5, 5, 6))
    assert same(a, b) and not same(a, c) and not same(a, make_net('tiny'))


def test_a_training_that_harms_is_not_kept(head):
    "A rate so large that the network forgets: the start comes back, to the last bit"
    _, noisy, sigma = head
    start = load_shipped('unet')[0]
    tuned, found = finetune_scan(
        start, noisy, sigma, kernel=WHITE, steps=2, lr=0.1, quiet=True, seed=3
    )
    assert found.share == 0 and found.gain < 2 * found.error and same(tuned, start)
    assert 'stay as they were' in found.notes[-1]


def test_a_wrong_sigma_is_seen(head):
    clean, noisy, sigma = head
    net = load_shipped('unet')[0]
    for told, low, high in ((1.0, 1, 1), (0.6, 1.45, 1.9)):
        found = Tuning()
        level = _true_level(net, noisy, (told * sigma, 'magnitude', 1), None, 0, found)
        assert low <= level <= high and len(found.notes) == (told != 1)


def test_correlation_is_measured():
    "Of a smooth head of 96 x 96 x 12 with noise blurred within slices, and with white noise"
    grid = np.linspace(-1, 1, 96)
    r = np.hypot(*np.meshgrid(grid, grid))[..., None] + np.zeros(12)
    clean = np.where(r < 0.7, 100.0, 0.0)
    for width, correlated in ((0.0, False), (0.7, True)):
        noisy = add_noise(clean, 5.0, 'gaussian', correlation=(width, width, 0), gen=generator(4))
        found = Tuning()
        kernel = _correlation(noisy, found)
        assert (kernel is not None) == correlated and len(found.notes) == correlated
        if correlated:
            # noise through exp(-x^2 / 2 w^2) has the correlation exp(-1 / 4 w^2) at one voxel
            m = len(kernel) // 2
            next_to = kernel[m + 1, m] if kernel.ndim == 2 else kernel[m + 1, m, m]
            assert abs(next_to - np.exp(-1 / (4 * width**2))) < 0.12


def test_pairs_and_clean_scans(head):
    clean, noisy, sigma = head
    start, how = make_net('tiny', 1), dict(steps=15, lr=5e-3, quiet=True)
    assert abs(pair_sigma(noisy, clean) / sigma - 1) < 0.06
    flat = clean[:30, :, 3:4]
    tuned, found = finetune_pairs(start, [clean, flat], [noisy, noisy[:30, :, 3:4]], **how)
    after = denoise_volume(tuned, noisy, sigma)
    object_ = clean > 3 * sigma
    assert found.share > 0 and psnr(after, clean, object_) > psnr(noisy, clean, object_) + 1
    for levels in (False, True):
        tuned, found = finetune_pairs(start, [clean, flat], levels=levels, **how)
        again, _ = finetune_pairs(start, [clean, flat], levels=levels, **how)
        assert same(tuned, again) and found.share > 0 and found.gain > 0.1


def test_any_that_is_shipped_and_odd_grids(head):
    "One slice; a map of sigma with zeros; blanked background"
    _, noisy, sigma = head
    for kind in shipped():
        finetune_scan(load_shipped(kind)[0], noisy, sigma, kernel=WHITE, steps=1, quiet=True)
    rows, tiny = [], make_net('tiny', 1)
    level = np.full(noisy.shape, sigma, np.float32)
    level[:5] = 0
    blank = np.where(np.arange(40)[:, None] < 9, 0, noisy).astype(np.float32)
    for x, s in ((noisy[:, :, 5:6], sigma), (noisy, level), (blank, sigma)):
        n, found = finetune_scan(
            tiny, x, s, kernel=WHITE, steps=3, quiet=True, callbacks=[rows.append]
        )
        assert np.isfinite(found.losses).all() and np.isfinite(denoise_volume(n, x, s)).all()
    assert [r['step'] for r in rows] == [1, 2, 3] * 3


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (dict(steps=0), 'steps 0'),
        (dict(steps=1.5), 'whole number'),
        (dict(lr=0), 'lr 0'),
        (dict(lr=float('nan')), 'lr'),
        (dict(seed=-1), 'seed'),
        (dict(seed=None), 'seed'),
        (dict(n_coils=0), 'n_coils'),
        (dict(kind='rician'), 'kind'),
        (dict(sigma=0.0), 'sigma 0'),
        (dict(sigma=-1.0), 'sigma'),
        (dict(sigma=np.ones((2, 2, 2))), 'sigma of shape'),
        (dict(sigma=1e9), 'too few'),
        (dict(noisy=np.ones((30, 30, 8))), 'constant'),
        (dict(noisy=np.ones((30, 30))), 'shape'),
        (dict(noisy=np.full((30, 30, 8), np.nan)), 'not finite'),
        (dict(noisy=np.random.default_rng(0).uniform(50, 60, (12, 12, 12))), 'too small'),
        (dict(net=torch.nn.Identity()), 'network'),
        (dict(kernel=np.ones((2, 2))), 'kernel'),
    ],
)
def test_bad_input_in_one_line(change, said):
    x = np.random.default_rng(0).uniform(50, 60, (30, 24, 8))
    given = dict(net=make_net('tiny'), noisy=x, sigma=1.0, kernel=WHITE, steps=1, quiet=True)
    with pytest.raises(InputError) as e:
        finetune_scan(**(given | change))
    assert said in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (dict(clean=[]), '0 clean'),
        (dict(clean=[np.ones((30, 30, 8))]), 'constant'),
        (dict(clean=['X'], noisy=[]), 'as many'),
        (dict(clean=['X'], noisy=['X']), 'do not differ'),
        (dict(clean=['X'], noisy=[np.ones((3, 3, 3))]), 'one grid'),
        (dict(clean=['X'], noisy=['Y'], sigma=[1.0, 2.0]), 'as many'),
    ],
)
def test_bad_pairs_in_one_line(given, said):
    x = np.random.default_rng(0).uniform(50, 60, (30, 24, 8))
    known = dict(X=x, Y=x + 1)
    opened = {
        k: [known.get(v, v) if isinstance(v, str) else v for v in w] for k, w in given.items()
    }
    with pytest.raises(InputError) as e:
        finetune_pairs(make_net('tiny'), steps=1, quiet=True, **opened)
    assert said in str(e.value) and '\n' not in str(e.value)


def test_a_slab_of_eight_voxels_learns_right_gradients():
    "Its lowest level is two voxels deep, where bfloat16 gradients come from unwritten memory"
    assert [d for d in range(2, 41) if not holds_in_half(d, 4)] == [2, 4, 8]
    clean = np.maximum(load_t1(downsample=3).data, 0).astype(np.float32)[20:28, 20:44, 20:36]
    sigma = 0.1 * float(clean.max())
    noisy = add_noise(clean, sigma, 'rician', gen=generator(1))
    net, seen = load_shipped('unet')[0], []
    for _ in range(3):
        junk = [torch.full((n,), float('nan')) for n in (300, 3000, 30_000, 100_000)]
        del junk
        seen.append(finetune_scan(net, noisy, sigma, kernel=WHITE, steps=3, quiet=True)[1].losses)
    assert seen[0] == seen[1] == seen[2] and np.isfinite(seen[0]).all()
