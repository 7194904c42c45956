"A noisy scan of a phantom head and its clean partner, int16: `memory_scan.py FOLDER NAME SHAPE ...`"

import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

SHELLS = {33: ({1000: 32}, 1), 288: ({1000: 90, 2000: 90, 3000: 90}, 18), 1: ({}, 1)}
SIGMA, AT_ONCE = 30.0, 16  # Image units (white matter has 700); volumes


def write(folder, shape):
    "clean.nii, noisy.nii and mask.nii, volume by volume where there are many"
    import torch

    x, V = shape[:3], shape[3] if len(shape) == 4 else 1
    shells, n_b0 = SHELLS[V]
    bvals, bvecs = make_gradients(shells, n_b0)
    files = {
        k: np.memmap(folder / f'{k}.raw', np.int16, 'w+', shape=(V, *x)) for k in ('clean', 'noisy')
    }
    gen = torch.Generator().manual_seed(0)
    for a in range(0, V, AT_ONCE):
        part = slice(a, a + AT_ONCE)
        scan, _ = simulate_dmri(bvals[part], bvecs[part], x, voxel_size=None)
        data = scan.data.reshape(*x, -1)
        for v in range(data.shape[-1]):
            clean = np.ascontiguousarray(data[..., v])
            files['clean'][a + v] = np.rint(clean)
            files['noisy'][a + v] = np.rint(np.abs(np.asarray(add_noise(clean, SIGMA, gen=gen))))
    for name, data in files.items():
        data = np.moveaxis(data, 0, -1) if V > 1 else data[0]
        nib.save(nib.Nifti1Image(data, scan.affine), folder / f'{name}.nii')
        (folder / f'{name}.raw').unlink()
    nib.save(nib.Nifti1Image(scan.mask.astype(np.uint8), scan.affine), folder / 'mask.nii')
    for name in files if V > 1 else ():
        np.savetxt(folder / f'{name}.bval', bvals[None], '%g')
        np.savetxt(folder / f'{name}.bvec', bvecs.T, '%.6f')


if __name__ == '__main__':
    write(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])))
