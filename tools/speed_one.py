"""One denoiser, once, in a process of its own: `speed_one.py METHOD NOISY MASK OUT`.

METHOD is a method of the build whose Python runs this, or `dipy:mppca`. OUT gets the denoised
series; `dipy:mppca` also writes its noise map beside it, as `level_OUT`. The line that is printed
(JSON) holds the seconds of the denoising itself, without imports and files, and those of a core
that it used. `speed.py` starts it; it must run in old builds too, and so imports nothing of this folder.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

# What a method imports on its way, loaded before the clock starts
LIBRARIES = ('torch', 'skimage.filters')
LEARNING = ('monai.networks.nets', 'accelerate')
BUILDS = (  # Modules of `Denoiser`, `Scan` and `methods`: today, and before the library had rooms
    (
        'mri_diffusion.app.denoiser',
        'mri_diffusion.scans.nifti',
        'mri_diffusion.methods.registry',
    ),
    ('mri_diffusion.denoiser', 'mri_diffusion.scan', 'mri_diffusion.denoiser'),
)


def build():
    "The modules of the build whose Python this is"
    for names in BUILDS:
        try:
            return [importlib.import_module(name) for name in names]
        except ModuleNotFoundError:
            continue
    raise SystemExit('no build of mri_diffusion that this script knows')


def dipy_mppca(noisy, mask):
    "A call that gives DIPY's result, and its noise map"
    from dipy.denoise.localpca import mppca

    data, inside = nib.load(noisy).get_fdata(dtype=np.float32), nib.load(mask).get_fdata() > 0
    how = dict(mask=inside, patch_radius=2, return_sigma=True, suppress_warning=True)
    return lambda: mppca(data, **how)


def ours(name, noisy, mask):
    "A call that gives the result of a method of this library, learning included"
    denoisers, scans, registry = build()
    denoiser = denoisers.Denoiser(name, quiet=True)
    learns = denoiser.method.learns
    registry.methods()
    for library in LIBRARIES + LEARNING * learns:
        importlib.import_module(library)
    scan = scans.Scan.load(noisy, mask=mask)
    return lambda: ((denoiser.fit(scan) if learns else denoiser).denoise(scan).denoised.data, None)


def main(method, noisy, mask, out):
    "Load, denoise by the clock, write"
    call = dipy_mppca(noisy, mask) if method == 'dipy:mppca' else ours(method, noisy, mask)
    start, used = time.perf_counter(), time.process_time()
    denoised, level = call()
    took = dict(seconds=time.perf_counter() - start, core_seconds=time.process_time() - used)
    affine, out = nib.load(noisy).affine, Path(out)
    nib.Nifti1Image(np.asarray(denoised, np.float32), affine).to_filename(out)
    if level is not None:
        level = nib.Nifti1Image(np.asarray(level, np.float32), affine)
        level.to_filename(out.with_name(f'level_{out.name}'))
    print(json.dumps(took))


if __name__ == '__main__':
    main(*sys.argv[1:])
