"""Six criteria on a truth that is known: `criteria.py [CSV]`.

A head with 32 directions through coils, k-space and reconstruction (`noise.chain`), scanned twice
with each of three seeds; every method denoises both scans and is told the noise map where it takes
one. `repeat` is the spread between the two. Writes CSV (results/criteria.csv) and, beside it, a
.json with settings and versions. Nobody is trained beforehand; `r2r` learns from each scan in 100
steps (its preset `laptop` has 800).
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import environment, write_json
from mri_diffusion.judge.criteria import criteria
from mri_diffusion.judge.truth import KnownTruth, score_series
from mri_diffusion.noise.chain import Scanner, scan_chain
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri
from mri_diffusion.scans.nifti import Scan

METHODS = ('identity', 'blur', 'nlmeans', 'mppca', 'patch2self', 'wiener', 'unet_pca', 'r2r')
SETTINGS = dict(r2r=dict(steps=100))
SHAPE, SIZE, B, DIRECTIONS, SNR, SEEDS = (40, 40, 8), (4.8, 4.8, 8), 1500, 32, 15, 3
SCANNER = Scanner(accel=2, partial=0.75, acquired=0.75)


def told(name, sigma):
    "What a method is told of the noise"
    return sigma if name not in ('identity', 'blur', 'patch2self') else None


def denoise(name, scan, sigma, seed):
    "The output of a method that sees the magnitude and its table, and no mask; CPU seconds"
    bare = Scan.from_array(scan.data, scan.affine, scan.bvals, scan.bvecs)
    since, settings = time.process_time(), SETTINGS.get(name, {})
    model = Denoiser(name, 'laptop', seed, quiet=True, **settings)
    if model.method.learns:
        model.fit(bare, sigma=told(name, sigma))
    x = model.denoise(bare, sigma=told(name, sigma)).denoised.data
    return x, time.process_time() - since


def rows(names, seed):
    "A row for each of some methods"
    head, _ = simulate_dmri(*make_gradients({B: DIRECTIONS}, 3), SHAPE, seed, SIZE)
    one, two = (scan_chain(head, SCANNER, SNR, seed, run) for run in (0, 1))
    clean, noisy, mask, sigma = one.scan('clean'), one.scan(), head.mask, one.sigma
    truth = KnownTruth(clean, noisy, mask, float(pd.Series(sigma[mask]).median()), SNR, seed)
    for name in names:
        x, seconds = denoise(name, noisy, sigma, seed)
        again, _ = denoise(name, two.scan(), sigma, seed)
        found = criteria(noisy.with_data(x), noisy, sigma, mask, clean.data, repeats=[again])
        psnr = score_series(x, truth)['psnr']
        yield dict(method=name, seed=seed, psnr=psnr, seconds=round(seconds, 1)) | found


def describe(path):
    "Settings and versions, beside the table"
    facts = dict(shape=SHAPE, voxel_size=SIZE, b=B, directions=DIRECTIONS, snr=SNR, seeds=SEEDS)
    facts |= dict(
        scanner=asdict(SCANNER),
        preset='laptop',
        settings=SETTINGS,
        command='python tools/criteria.py',
    )
    write_json(path.with_suffix('.json'), facts | dict(environment=environment()), force=True)


def main(path='results/criteria.csv'):
    path, table = Path(path), []
    describe(path)
    quick = [n for n in METHODS if n not in SETTINGS]
    for names, seed in [(n, s) for n in (quick, list(SETTINGS)) for s in range(SEEDS)]:
        for row in rows(names, seed):
            table.append(row)
            print(seed, row['method'], f'{row["psnr"]:.2f} dB', f'{row["seconds"]} s', flush=True)
            pd.DataFrame(table).round(5).to_csv(path, index=False)


if __name__ == '__main__':
    main(*sys.argv[1:])
