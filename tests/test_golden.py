"Numbers that must not move: closed forms, phantoms, the order of patches, the noise of a seed"

import hashlib

import numpy as np
import pytest
import torch

from mri_diffusion.core import generator
from mri_diffusion.judge.scores import psnr, ssim
from mri_diffusion.learn.schedule import make_schedule
from mri_diffusion.learn.train import batches_from
from mri_diffusion.noise.models import add_noise, ncchi_mean, rician_mean, rician_var
from mri_diffusion.phantoms.heads import load_t1, make_gradients, shapes_phantom, simulate_dmri
from mri_diffusion.scans.patches import PatchDataset


def digest(a):
    return hashlib.sha256(np.ascontiguousarray(a)).hexdigest()[:12]


def test_bias_of_the_magnitude():
    "Signal 0, 1, 2, 5 at sigma 1: at 0 sqrt(pi/2) and 2 - pi/2, far up x + 1/(2x) and 1"
    assert [rician_mean(x, 1.0) for x in (0.0, 1.0, 2.0, 5.0)] == pytest.approx(
        [np.sqrt(np.pi / 2), 1.5485724605511455, 2.2723834280687423, 5.101069639492125], rel=1e-12
    )
    assert [rician_var(x, 1.0) for x in (0.0, 1.0, 2.0, 5.0)] == pytest.approx(
        [2 - np.pi / 2, 0.6019233344225716, 0.8362735558385532, 0.979088533051673], rel=1e-12
    )
    assert [ncchi_mean(x, 1.0, 4) for x in (0.0, 2.0)] == pytest.approx(
        [35 / 32 * np.sqrt(2 * np.pi), 3.3681793873612764], rel=1e-12
    )


def test_noise_of_a_seed():
    assert add_noise(torch.full((4,), 1.0), 0.5, gen=generator(0)).tolist() == pytest.approx(
        [1.8516778, 1.1032287, 0.2205982, 1.3508448], abs=1e-6
    )


def test_t1_phantom():
    t1 = load_t1(downsample=7)
    assert t1.shape == (28, 33, 27) and t1.mask.sum() == 5481
    assert t1.affine[:3, 3].tolist() == [-95, -131, -69]
    assert (t1.data.mean(), t1.data.max()) == pytest.approx((0.1528218, 0.9216829), rel=1e-5)
    noisy = add_noise(t1.data, 0.05, gen=generator(0))
    assert (psnr(noisy, t1.data), ssim(noisy, t1.data)) == pytest.approx(
        (22.913059, 0.420812), rel=1e-5
    )


def test_diffusion_phantom():
    scan, truth = simulate_dmri(*make_gradients({1000: 6}, 2), shape=(14, 16, 12), voxel_size=None)
    assert scan.mask.sum() == 1248
    means = [truth[k][scan.mask].mean() for k in ('fa', 'md')]
    assert means == pytest.approx([0.2153846, 7.868590e-4], rel=1e-5)
    assert scan.data.mean((0, 1, 2)) == pytest.approx(
        [431.4942, 431.4942, 160.0482, 164.2952, 166.0357, 164.4447, 161.4438, 165.6417], rel=1e-4
    )


def test_shapes_phantom():
    assert shapes_phantom((32, 32), 0).mean() == pytest.approx(0.3199399, rel=1e-5)


def test_patches_of_a_seed():
    v = np.arange(20**3, dtype=np.float32).reshape(20, 20, 20)
    cubes = PatchDataset([v, v + 1], (8, 8, 8), 10, seed=3)
    slices = PatchDataset([v], (8, 6, 1), 10, seed=0)
    found = [digest(cubes[i]['image']) for i in (0, 1, 7)]
    assert found == ['05ecd507d82a', '9978027ff6ac', 'eeb6cca4ac0c']
    assert digest(slices[2]['image']) == 'c2dc42243354'


def test_order_of_the_batches():
    "Each item once an epoch; the second of two processes sees the second half of each batch"
    assert batches_from(10, 4, 0, 0, 3) == [[4, 6, 2, 7], [3, 5, 9, 0], [8, 1, 9, 1]]
    assert batches_from(10, 4, 0, 2, 3, 1, 2) == [[9, 1]]


@pytest.mark.parametrize(
    'name, sigmas',
    [
        ('linear', [0, 3.4054302, 155.82519]),
        ('cosine', [0, 1.0092385, 641.66235]),
        ('reverse_warmup', [0, 0.5979365, 5.7679330]),
    ],
)
def test_schedules(name, sigmas):
    found = np.asarray(make_schedule(name, 1000).sigmas)[[0, 499, 999]]
    assert found == pytest.approx(sigmas, rel=1e-5)
