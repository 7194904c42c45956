"""`pca` beside its rivals on a known truth: `pca.py DWI_FOLDER [CSV]`.

The truth is the tensor fitted to a real series, as in `series_table.py`. Its noise is white, or it
came through interpolation: two thirds of k-space along two axes are filled, the rest is empty, and
the correlation of neighbours is 0.41. No method is told the level, but for the row `pca, told`.
Seconds are those of a core; `ratio` is seconds over those of `mppca` (DIPY's, with its bias
removed) on the same series. The scores come from a part of the head, three seeds each; seconds also
from the larger part on which `series_table.py` and `speed.py` measure. Two rivals are not run
again: `r2r`, which trains for minutes, stands in `results/speed.csv` on that larger part, `unet_pca`
in `results/series.csv`. The table is written after every run, and the same command goes on where it
was interrupted.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from series_table import CROP, clean_series

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import environment, write_json
from mri_diffusion.judge.truth import make_truth, score_series
from mri_diffusion.scans.nifti import Scan

SHARE, SEEDS = 2 / 3, 3
METHODS = {
    'noisy': ('identity', {}),
    'mppca': ('mppca', dict(remove_bias=True)),
    'patch2self': ('patch2self', {}),
    'wiener': ('wiener', {}),
    'pca': ('pca', {}),
    'pca, optimal': ('pca', dict(shrink='optimal')),
    'pca, patches only': ('pca', dict(axes='patch')),
    'pca, told': ('pca', {}),
}
PART = '32:96,24:104,24:32'
SERIES = [('white', 15), ('interpolated', 15), ('white', 8), ('white', 30)]
ASKED = [(PART, *s, 0) for s in SERIES] + [(CROP, 'white', 15, 0)]
ASKED += [(PART, *s, seed) for seed in range(1, SEEDS) for s in SERIES]
KEYS = ['crop', 'noise', 'snr', 'seed']


def interpolated(shape, seed):
    "Complex noise, std one a channel, whose outer k-space is empty along the first two axes"
    rng = np.random.default_rng(seed)
    k = np.fft.fftn(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), axes=(0, 1))
    for axis in (0, 1):
        filled = np.abs(np.fft.fftfreq(shape[axis])) <= SHARE / 2
        k *= filled.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    noise = np.fft.ifftn(k, axes=(0, 1))
    return noise / np.sqrt((np.abs(noise) ** 2).mean() / 2)


def truth_of(clean, noise, snr, seed):
    "A known truth with one of the two kinds of noise"
    truth = make_truth(clean, snr, seed)
    if noise == 'white':
        return truth
    data = np.abs(clean.data + truth.sigma * interpolated(clean.data.shape, seed))
    return replace(truth, noisy=clean.with_data(data.astype(np.float32)))


def run(truth, name):
    "Seconds and scores of one method"
    n = truth.noisy
    bare = Scan.from_array(n.data, n.affine, n.bvals, n.bvecs)  # No mask is told
    method, settings = METHODS[name]
    sigma = truth.sigma if name == 'pca, told' else None
    denoiser = Denoiser(method, quiet=True, **settings)
    since = time.process_time()
    found = denoiser.apply(bare, sigma=sigma)
    row = dict(seconds=time.process_time() - since) | score_series(found.denoised, truth)
    if found.std is None:
        return row
    error = np.abs(found.denoised.data - truth.clean.data)[truth.mask]
    return row | dict(within_std=float((error < np.asarray(found.std)[truth.mask]).mean()))


def facts():
    "How and where the table was made"
    return dict(
        command='python tools/pca.py FOLDER CSV',
        preset='laptop',
        methods=METHODS,
        share_of_kspace=SHARE,
        seeds=list(range(SEEDS)),
        note='seconds of a core on two cores beside other jobs',
        environment=environment(),
    )


def with_ratios(table):
    "The table with seconds over those of `mppca` on the same series"
    mppca = table[table.method == 'mppca'].set_index(KEYS).seconds
    return table.assign(ratio=table.seconds / mppca.reindex(table.set_index(KEYS).index).to_numpy())


def main(folder='../shared/data/dti32', out='results/pca.csv'):
    "Print the table, and keep it"
    out = Path(out)
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=[*KEYS, 'method'])
    clean = {}
    for asked in ASKED:
        known = set(table[(table[KEYS] == list(asked)).all(axis=1)].method)
        names, truth = [n for n in METHODS if n not in known], None
        for name in names:
            crop = asked[0]
            clean[crop] = clean[crop] if crop in clean else clean_series(folder, crop)
            truth = truth or truth_of(clean[crop], *asked[1:])
            row = dict(zip(KEYS, asked)) | dict(method=name) | run(truth, name)
            table = with_ratios(pd.concat([table, pd.DataFrame([row])], ignore_index=True))
            table.round(5).to_csv(out, index=False)
            write_json(out.with_suffix('.json'), facts())
    columns = ['seconds', 'ratio', 'psnr', 'bias', 'fa_error', 'within_std']
    groups = table.groupby([*KEYS[:-1], 'method'])[columns]
    print(groups.agg(['mean', 'std']).round(3).to_string())


if __name__ == '__main__':
    main(*sys.argv[1:])
