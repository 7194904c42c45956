"""Fast methods for a series on a known truth: `series_table.py DWI_FOLDER [CSV [TRUTH ...]]`.

Truths: the tensor fitted to a real series (`known_truth`); the same voxels as two crossing tensors
and a part that does not diffuse, with one shell and with two; three noise levels, three seeds, all
directions and six of them. And a block design on a phantom head (fMRI), where `response` is the
size of the response that is left, as a fraction of the true one. No method is told the level.
TRUTH: tensor, crossing, shells, blocks; none: all of them.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import environment, generator, write_json
from mri_diffusion.judge.tensors import dipy_tensor, six_direction_protocol
from mri_diffusion.judge.truth import crop_scan, known_truth, make_truth, score_series
from mri_diffusion.noise.models import add_rician_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri
from mri_diffusion.scans.nifti import Scan

CROP = '16:112,8:120,20:36'
METHODS = dict(mppca=dict(remove_bias=True), wiener={}, unet_pca={})
SEEDS = 3
TRUTHS = ('tensor', 'crossing', 'shells', 'blocks')


def clean_series(folder, crop=CROP):
    "The noise-free truth made of the series in a folder: the tensor fitted to it"
    scan = crop_scan(Scan.load(Path(folder) / 'dwi.nii.gz'), crop)
    return known_truth(scan, 15, 0).clean


def crossing(clean, shells=(1.0,)):
    "The same voxels as two tensors that cross at a right angle and a tenth that does not diffuse"
    fit = dipy_tensor(clean.data, clean.bvals, clean.bvecs, least=None)
    values, vectors = fit.evals, fit.evecs
    b0, table = clean.data[..., int(np.argmin(clean.bvals))], []
    bvals = np.concatenate([clean.bvals, *[s * clean.bvals[~clean.is_b0] for s in shells[1:]]])
    bvecs = np.concatenate([clean.bvecs, *[clean.bvecs[~clean.is_b0] for _ in shells[1:]]])
    for b, g in zip(bvals, np.nan_to_num(bvecs)):
        along = np.square(np.einsum('xyzji,j->xyzi', vectors, g))  # Squared cosines to the axes
        first, second = (
            b * (along * values[..., order]).sum(-1) for order in ([0, 1, 2], [1, 0, 2])
        )
        table.append(b0 * (0.55 * np.exp(-first) + 0.35 * np.exp(-second) + 0.1))
    data = np.nan_to_num(np.stack(table, -1), posinf=0, neginf=0).astype(np.float32)
    scan = Scan.from_array(np.clip(data, 0, 1.2 * b0.max()), clean.affine, bvals, bvecs)
    return replace(scan, mask=clean.mask)


def methods(bare, about, score):
    "A row for the noisy series and for each method"
    yield about | dict(method='noisy', seconds=0.0) | score(bare.data)
    for name, settings in METHODS.items():
        since = time.process_time()
        found = Denoiser(name, quiet=True, **settings).apply(bare).denoised
        took = time.process_time() - since
        yield about | dict(method=name, seconds=round(took, 1)) | score(found)


def diffusion(clean, name, snr, seed, volumes=None):
    "Rows of a diffusion series"
    truth = make_truth(clean, snr, seed)
    truth = truth if volumes is None else truth.take(volumes)
    n = truth.noisy
    bare = Scan.from_array(n.data, n.affine, n.bvals, n.bvecs)  # No mask is told
    weighted = int((~truth.clean.is_b0).sum())
    about = dict(truth=name, directions=weighted, snr=snr, seed=seed)
    yield from methods(bare, about, lambda x: score_series(x, truth))


def blocks(snr, seed, volumes=80):
    "Rows of a head in which two regions follow a block design with 2 % of the signal, and a drift"
    head = simulate_dmri(*make_gradients({1000: 6}, n_b0=1), shape=(48, 56, 16))[0]
    base, mask, at = head.data[..., 0], head.mask, np.indices(head.data.shape[:3])
    blob = lambda c, r: np.exp(-0.5 * sum(((at[i] - c[i]) / r) ** 2 for i in range(3)))
    active = (blob((16, 20, 8), 2.0) + blob((32, 36, 8), 3.0)) * mask
    task = (np.arange(volumes) // 10 % 2).astype(np.float32)
    drift = 0.01 * blob((24, 28, 8), 10)[..., None] * np.linspace(-1, 1, volumes)
    clean = (base[..., None] * (1 + 0.02 * active[..., None] * task + drift)).astype(np.float32)
    sigma = float(np.median(base[mask]) / snr)
    noisy = add_rician_noise(clean, sigma, generator(seed))
    design = (task - task.mean()) / (task.var() * volumes)
    true = (clean @ design)[active > 0.3]

    def score(x):
        x = np.asarray(getattr(x, 'data', x))
        left = (x @ design)[active > 0.3] @ true / (true @ true)
        rmse = float(np.sqrt(np.square(x - clean)[mask].mean()))
        return dict(psnr=20 * np.log10(clean[mask].max() / rmse), response=float(left))

    bare = Scan.from_array(noisy, head.affine)
    yield from methods(bare, dict(truth='blocks', directions=0, snr=snr, seed=seed), score)


def facts(truths):
    "How and where the table was made"
    return dict(
        command='python tools/series_table.py FOLDER CSV ' + ' '.join(truths),
        crop=CROP,
        methods=METHODS,
        seeds=list(range(SEEDS)),
        note='seconds of a core on two cores beside other jobs',
        environment=environment(),
    )


def main(folder='../shared/data/dti32', out='results/series.csv', *truths):
    "Print the table, and keep it"
    truths = truths or TRUTHS
    clean = clean_series(folder)
    six = six_direction_protocol(clean.bvals, clean.bvecs, 'spread')
    two, shells = crossing(clean), crossing(clean, (1.0, 2.5))
    asked = [(clean, 'tensor', snr, None) for snr in (8, 15, 30)] + [(clean, 'tensor', 15, six)]
    asked += [(two, 'crossing', snr, None) for snr in (8, 15, 30)]
    asked += [(shells, 'shells', 15, None)]
    asked = [a for a in asked if a[1] in truths]
    rows = []
    for truth, name, snr, volumes in asked:
        for seed in range(SEEDS):
            rows += diffusion(truth, name, snr, seed, volumes)
        pd.DataFrame(rows).round(5).to_csv(out, index=False)
    for snr in (20, 40, 80) if 'blocks' in truths else ():
        for seed in range(SEEDS):
            rows += blocks(snr, seed)
    pd.DataFrame(rows).round(5).to_csv(out, index=False)
    write_json(Path(out).with_suffix('.json'), facts(truths))
    table = pd.DataFrame(rows).drop(columns='seed')
    groups = table.groupby(['truth', 'directions', 'snr', 'method'])
    print(groups.agg(['mean', 'std']).round(3).to_string())


if __name__ == '__main__':
    main(*sys.argv[1:])
