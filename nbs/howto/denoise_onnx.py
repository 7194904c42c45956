"""Denoise a volume by a network that `mri-diffusion export` wrote, without torch.

    python denoise_onnx.py unet.onnx noisy.nii.gz denoised.nii.gz --sigma 12.5

Needs numpy, nibabel and onnxruntime. It does what the library's `denoise_volume` does with one
volume whose noise level is known; what the library's `denoise` does beyond that is left out: it
estimates the level and checks it, leaves clean scans alone, and adds detail band by band.
"""

import argparse
import itertools
import json

import nibabel as nib
import numpy as np
import onnxruntime

BLOCK = 96  # Voxels a side that a block gives; it sees a margin beside


def states(x, sigma, table):
    "Magnitude (X, Y, Z) on the scale where its noise has std one"
    m, f = np.array(table['magnitude']), np.array(table['state'])
    x = np.maximum(x, 0) / sigma
    return np.where(x > m[-1], x, np.interp(x, m, f)).astype(np.float32)


def image(z, sigma, table):
    "Denoised states back in image units, without the bias of the magnitude"
    signal, expected = np.array(table['signal']), np.array(table['expected_state'])
    far = np.sqrt(np.maximum(z**2 - 1, 0)) + signal[-1] - np.sqrt(expected[-1] ** 2 - 1)
    found = np.where(z > expected[-1], far, np.interp(z, expected, signal))
    return (sigma * found).astype(np.float32)


def smooth(x):
    "Gaussian of one voxel along each axis"
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    weights /= weights.sum()
    for axis in range(3):
        line = np.moveaxis(x, axis, 0)
        wide = np.pad(line, [(4, 4), (0, 0), (0, 0)], mode='symmetric')
        line = sum(w * wide[k : k + len(line)] for k, w in enumerate(weights))
        x = np.moveaxis(line, 0, axis)
    return x


def strength_map(z, strength, air):
    "How much of the noise is taken for noise: all of it in air, `strength` where there is signal"
    signal = np.clip(np.abs(smooth(z) - air) - 0.5, 0, 1)
    return (1 - (1 - strength) * signal).astype(np.float32)


def apply(run, z, sides, margin):
    "The network on a volume of any size, block by block"
    wide = np.pad(z, [(0, -n % sides) for n in z.shape], mode='reflect')
    out, starts = np.empty_like(wide), [range(0, n, BLOCK) for n in wide.shape]
    for first in itertools.product(*starts):
        seen = tuple(slice(max(a - margin, 0), a + BLOCK + margin) for a in first)
        core = tuple(slice(a, a + BLOCK) for a in first)
        inner = tuple(slice(a - s.start, a - s.start + BLOCK) for a, s in zip(first, seen))
        out[core] = run(np.ascontiguousarray(wide[seen]))[inner]
    return out[tuple(slice(n) for n in z.shape)]


def denoise(path, noisy, sigma, strength=0.91, signed=False):
    "A volume (X, Y, Z) with noise of std sigma (a number, or a map above 0) to one without it"
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    about = session.get_modelmeta().custom_metadata_map
    table, level = json.loads(about['magnitude_table']), np.ones(1, np.float32)
    how = int(about['sides_multiple_of']), int(about['margin'].split()[0])

    def run(block):
        return session.run(None, {'noisy': block[None, None], 'level': level})[0][0, 0]

    z = (noisy / sigma).astype(np.float32) if signed else states(noisy, sigma, table)
    by = strength_map(z, strength, 0.0 if signed else table['expected_state'][0])
    scaled = z / by
    back = np.s_[::-1, ::-1, ::-1]  # the mean of two answers, one of them to the mirrored volume
    clean = apply(run, scaled, *how) + apply(run, scaled[back], *how)[back]
    clean = by * clean / 2
    return clean * np.float32(sigma) if signed else image(clean, sigma, table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('network')
    parser.add_argument('noisy')
    parser.add_argument('denoised')
    parser.add_argument('--sigma', required=True, help='noise std: a number, or a map (.nii.gz)')
    parser.add_argument('--strength', type=float, default=0.91)
    parser.add_argument('--signed', action='store_true', help='a real channel, no magnitude')
    words = parser.parse_args()
    scan = nib.load(words.noisy)
    is_map = words.sigma.endswith(('.nii', '.nii.gz'))
    sigma = nib.load(words.sigma).get_fdata(dtype=np.float32) if is_map else float(words.sigma)
    noisy = scan.get_fdata(dtype=np.float32)
    if noisy.ndim != 3 or not np.min(sigma) > 0:
        parser.error('give one volume (X, Y, Z), and a sigma above 0')
    found = denoise(words.network, noisy, sigma, words.strength, words.signed)
    nib.Nifti1Image(found, scan.affine).to_filename(words.denoised)


if __name__ == '__main__':
    main()
