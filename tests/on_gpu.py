"Every method on a pretended GPU: `python tests/on_gpu.py NAME...`; prints JSON, one entry a name"

import json
import sys
import tempfile

import numpy as np
import pretend_gpu
import torch

pretend_gpu.pretend()
import mri_diffusion as mri  # noqa: E402
from mri_diffusion.app.denoiser import Denoiser  # noqa: E402
from mri_diffusion.methods.registry import get_method  # noqa: E402

SIGMA = 0.06


def head():
    x = mri.load_t1().data[60:80, 60:80, 60:64].astype(np.float32)
    return x / x.max()


def noisy(x):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, SIGMA, (2, *x.shape))
    return np.hypot(x + a, b).astype(np.float32)


def volume():
    return mri.Scan.from_array(noisy(head()))


def series(repeated=False):
    bvals, bvecs = mri.make_gradients({1000: 2 if repeated else 4})
    if repeated:
        bvals, bvecs = np.r_[bvals, bvals], np.r_[bvecs, bvecs]
    clean = head()[..., None] * np.where(bvals > 0, np.linspace(0.4, 0.8, len(bvals)), 1)
    return mri.Scan.from_array(noisy(clean), bvals=bvals, bvecs=bvecs)


def learned(name, scan, **settings):
    "A method with its tiny preset and three steps; trained, saved, opened and applied"
    settings |= dict(steps1=3, steps3=3, T=6) if name == 'ddm2' else dict(steps=3)
    d = Denoiser(name, 'tiny', device='cuda', quiet=True, **settings)
    pair = get_method(name).needs == 'pairs'
    d.fit(scan, mri.Scan.from_array(head())) if pair else d.fit(scan)
    assert next(d.net.parameters()).device == torch.device('cuda', 0)
    with tempfile.TemporaryDirectory() as folder:
        d.save(folder, force=True)
        again = Denoiser.load(folder, device='cuda', quiet=True)
        return again.denoise(scan, SIGMA if pair else None)


def shipped(name, scan, **settings):
    return Denoiser(name, device='cuda', quiet=True, **settings).denoise(scan)


CASES = dict(
    unet_shipped=lambda: shipped('unet', volume(), probes=1),
    unet_tuned=lambda: shipped('unet', volume(), tune=2),
    unet_pairs=lambda: learned('unet', volume()),
    unet_scratch=lambda: learned('unet', volume(), begin='scratch'),
    diffusion_shipped=lambda: shipped('diffusion', volume(), inference_steps=2),
    diffusion_scratch=lambda: learned('diffusion', volume(), begin='scratch', inference_steps=2),
    nafnet=lambda: learned('nafnet', volume()),
    unet_pca=lambda: shipped('unet_pca', series(), probes=1),
    ddm2=lambda: learned('ddm2', series(), flips=True, samples=2, batch=16),
    ddm2_blocks=lambda: learned(
        'ddm2', series(), dims=3, patch=16, sampler='ddim', flips=False, batch=16
    ),
    ddm2_gaussian=lambda: learned('ddm2', series(), shuffle=False, sampler='one-step', batch=16),
    r2r=lambda: learned('r2r', series()),
    n2n=lambda: learned('n2n', series(repeated=True)),
    diffdenoise=lambda: learned('diffdenoise', volume()),
    diffdenoise_published=lambda: learned('diffdenoise', volume(), form='published'),
    noise2score=lambda: learned('noise2score', volume()),
    corruption2self=lambda: learned('corruption2self', volume()),
    dip=lambda: learned('dip', volume()),
)


def refused():
    "What a real GPU would not do, and whether it was refused"
    x, cpu = torch.ones(3, 4, device='cuda'), torch.Generator()
    here = dict(device='cuda', generator=cpu)
    tries = dict(
        numpy=lambda: x.numpy(),
        asarray=lambda: np.asarray(x),
        mixed=lambda: x + torch.ones(4),
        mixed_grad=lambda: torch.nn.Linear(4, 2)(x),
        matrix=lambda: x @ torch.ones(4, 2),
        generator=lambda: torch.randn(3, **here),
        generator_there=lambda: torch.randn(3, generator=torch.Generator('cuda')),
    )
    return {k: _raises(f) for k, f in tries.items()} | dict(number=not _raises(lambda: x + x.sum()))


def _raises(f):
    try:
        f()
    except (RuntimeError, TypeError):
        return True
    return False


def one(name):
    "'' if the result is finite and was computed there, or what is wrong"
    before = pretend_gpu.counted['operations']
    try:
        found = CASES[name]()
    except Exception as e:
        return f'{type(e).__name__}: {str(e)[:400]}'
    if pretend_gpu.counted['operations'] < before + 50:
        return 'computed elsewhere'
    return '' if np.isfinite(found.denoised.data).all() else 'not finite'


if __name__ == '__main__':
    names = sys.argv[1:]
    found = {k: one(k) for k in names} if names else refused()
    print(json.dumps(found))
