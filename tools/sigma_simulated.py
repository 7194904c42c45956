"""Does the interval of sigma cover the truth? `sigma_simulated.py [DATA [CSV [SEED]]]`

Noise of nineteen kinds is simulated on images of low noise, at two to four SNRs each. DATA holds
the real scans named below; the MNI152 head comes with nilearn. The truth is the median over the
object of the noise's std; where an image has noise of its own, a little less than nothing is made
of it: the truth then lies between what was added and the root of the sum of squares with it.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from mri_diffusion.core import environment, write_json
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.phantoms.heads import load_t1

SERIES = {  # name -> file, volumes to average
    'dti32': ('dti32/dwi.nii.gz', slice(1, None)),
    'b2500': ('b2500/dwi.nii.gz', slice(1, None)),
    'repeats': ('repeats/brain_b100_x6.nii.gz', slice(None)),
    'water': ('phantom_water/water_LTE_pt1.nii.gz', slice(6)),
    'sense': ('noise_scans/dwi.nii.gz', slice(12)),
}
KINDS = [('rician', s) for s in (3, 8, 15, 30)]
KINDS += [(f'coils {n}', s) for n in (2, 8, 20) for s in (6, 25)]
KINDS += [
    (k, s)
    for k in (
        *('zero-filled 1.33', 'zero-filled 2', 'one axis zero-filled 2'),
        *('partial Fourier 0.25', 'partial Fourier 0.375', 'moved 3', 'moved 1'),
        *('g-factor', 'normalised', 'array 8', 'rounded 1', 'rounded 0.5', 'masked', 'ghost'),
    )
    for s in (8, 25)
]


def images(data):
    "name -> (X, Y, 8) of low noise, its 90th percentile at 500"
    middle = lambda x: x[:, :, max(0, x.shape[2] // 2 - 4) : x.shape[2] // 2 + 4]
    head = np.asarray(load_t1().data, float)
    found = {'mni': middle(head), 'mni, sagittal': middle(np.moveaxis(head, 0, 2))}
    for name, (path, volumes) in SERIES.items():
        if (Path(data) / path).exists():
            x = np.asarray(nib.load(Path(data) / path).dataobj, float)
            found[name] = middle(x[..., volumes].mean(-1))
    return {k: v * (500 / np.percentile(v, 90)) for k, v in found.items()}


def to_k(v):
    return np.fft.fftshift(np.fft.fft2(v, axes=(0, 1)), (0, 1))


def to_image(v):
    return np.fft.ifft2(np.fft.ifftshift(v, (0, 1)), axes=(0, 1))


def padded(v, shape):
    "k-space filled with zeros up to `shape`"
    k, out = to_k(v), np.zeros((*shape, v.shape[2]), complex)
    at = [n // 2 - s // 2 for n, s in zip(shape, v.shape)]
    out[at[0] : at[0] + v.shape[0], at[1] : at[1] + v.shape[1]] = k
    return to_image(out) * np.prod(shape) / np.prod(v.shape[:2])


def object_of(x):
    return ndimage.binary_fill_holes(np.abs(x) > 0.15 * np.percentile(np.abs(x), 99))


def complex_pair(x, kind, number, n):
    "Image and complex noise as reconstruction leaves them"
    even = lambda s: int(round(s * number / 2)) * 2 + s % 2
    if 'zero-filled' in kind:
        shape = [even(s) if a == 0 or 'axis' not in kind else s for a, s in enumerate(x.shape[:2])]
        return padded(x, shape).real, padded(n, shape)
    if kind == 'partial Fourier':
        kept = (np.arange(x.shape[1]) >= int(x.shape[1] * number))[None, :, None]
        return to_image(to_k(x) * kept), to_image(to_k(n) * kept)
    if kind == 'moved':  # by interpolation of that order, as a correction of motion does
        move = lambda v: ndimage.shift(v, (0.33, 0.4, 0), order=int(number))
        return x, move(n.real) + 1j * move(n.imag)
    return x, n


def simulate(x, kind, snr, rng):
    "Magnitude, and its true sigma"
    kind, number = (*kind.rsplit(' ', 1), 0)[:2] if kind[-1].isdigit() else (kind, 0)
    number, white = float(number), lambda: rng.standard_normal(x.shape + (2,)) @ [1, 1j]
    sigma = np.median(x[object_of(x)]) / snr
    x, n = complex_pair(x, kind, number, white())
    n = n * (sigma / n.real.std())
    a, b = (np.linspace(-1, 1, s)[(...,) + (None,) * (2 - i)] for i, s in enumerate(x.shape[:2]))
    gain = np.ones(x.shape)
    if kind == 'g-factor':
        gain = gain + 1.5 * np.cos(np.pi / 2 * b) ** 4
    if kind == 'normalised':
        gain = gain * np.exp(1 - a**2 - b**2)
        gain /= np.median(gain[object_of(x)])
    n, inside = n * gain, object_of(x)
    x = np.abs(x) + (0.08 * np.abs(np.roll(x, x.shape[1] // 2, 1)) if kind == 'ghost' else 0)
    power = np.abs(x + n) ** 2
    if kind in ('coils', 'array'):
        share = 1 + 0.8 * a if kind == 'array' else 1
        for _ in range(int(number) - 1):
            power = power + np.abs(white() * sigma * share) ** 2
    y = np.sqrt(power) * (inside if kind == 'masked' else 1)
    y = np.round(y / sigma * number) / number * sigma if kind == 'rounded' else y
    return y.astype(np.float32), float(np.median((sigma * gain)[inside]))


def row(x, own, kind, snr, seed):
    y, truth = simulate(x, kind, snr, np.random.default_rng(seed))
    e = estimate_sigma(y)
    return dict(
        kind=kind,
        snr=snr,
        ratio=e.number / truth,
        low=e.low / truth,
        high=e.high / truth,
        covered=e.low <= np.hypot(truth, own) and truth <= e.high,
        noted=e.high <= 2 * e.low or any('factor of two' in n for n in e.notes),
    )


def main(data='../shared/data', out='results/sigma_simulated.csv', seed='909000'):
    "Print a table by kind, and keep all rows"
    rows = []
    for i, (name, x) in enumerate(images(data).items()):
        own = estimate_sigma(x).low
        for j, (kind, snr) in enumerate(KINDS):
            rows.append(dict(image=name) | row(x, own, kind, snr, [int(seed), i, j]))
    table = pd.DataFrame(rows).round(3)
    table.to_csv(out, index=False)
    by = table.groupby(['kind', 'snr'])
    print(by.agg(ratio=('ratio', 'median'), covered=('covered', 'sum'), of=('covered', 'size')))
    covered, noted = int(table.covered.sum()), int(table.noted.sum())
    write_json(
        Path(out).with_suffix('.json'),
        dict(
            command=f'python tools/sigma_simulated.py {data} {out} {seed}',
            images=len(table),
            covered=covered,
            narrow_or_noted=noted,
            environment=environment(),
        ),
    )
    print(f'{covered} of {len(table)} covered; {noted} narrower than two, or with a note')


if __name__ == '__main__':
    main(*sys.argv[1:])
