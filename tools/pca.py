"""`pca` beside its rivals on a known truth: `pca.py DWI_FOLDER [CSV]`.

The truth is the tensor fitted to a real series, as in `series_table.py`. Its noise is white, or it
came through interpolation: two thirds of k-space along two axes are filled, the rest is empty, and
the correlation of neighbours is 0.41. No method is told the level, but for the row `pca, told`.
Seconds are those of a core; `ratio` is seconds over those of `mppca` (DIPY's, with its bias
removed) on the same series. The table is written after every series, and the same command goes on
where it was interrupted. `r2r` trains for minutes: it is asked at SNR 15 with the first seed only.
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
    'unet_pca': ('unet_pca', {}),
    'r2r': ('r2r', {}),
}
ASKED = [('white', 15), ('interpolated', 15), ('white', 8), ('white', 30)]


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


def rows_of(truth, about, names):
    "A row for each method; `noisy` is the series itself"
    n, rows = truth.noisy, []
    bare = Scan.from_array(n.data, n.affine, n.bvals, n.bvecs)  # No mask is told
    for name in names:
        method, settings = METHODS[name]
        denoiser = Denoiser(method, quiet=True, **settings)
        since = time.process_time()
        if denoiser.method.learns:
            denoiser.fit(bare)
        sigma = truth.sigma if name == 'pca, told' else None
        found = denoiser.apply(bare, sigma=sigma)
        row = about | dict(method=name, seconds=time.process_time() - since)
        row |= score_series(found.denoised, truth)
        if found.std is not None:
            error = np.abs(found.denoised.data - truth.clean.data)[truth.mask]
            row['within_std'] = float((error < found.std.data[truth.mask]).mean())
        rows.append(row)
    return rows


def facts():
    "How and where the table was made"
    return dict(
        command='python tools/pca.py FOLDER CSV',
        crop=CROP,
        preset='laptop',
        methods=METHODS,
        share_of_kspace=SHARE,
        seeds=list(range(SEEDS)),
        note='seconds of a core on two cores beside other jobs',
        environment=environment(),
    )


def with_ratios(table):
    "The table with seconds over those of `mppca` on the same series"
    keys = ['noise', 'snr', 'seed']
    mppca = table[table.method == 'mppca'].set_index(keys).seconds
    return table.assign(ratio=table.seconds / mppca.reindex(table.set_index(keys).index).to_numpy())


def main(folder='../shared/data/dti32', out='results/pca.csv'):
    "Print the table, and keep it"
    clean, out = clean_series(folder), Path(out)
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['noise', 'snr', 'seed'])
    for noise, snr in ASKED:
        for seed in range(SEEDS):
            about = dict(noise=noise, snr=snr, seed=seed)
            known = table[(table[list(about)] == list(about.values())).all(axis=1)]
            names = [n for n in METHODS if n not in set(known.get('method', ()))]
            names = [n for n in names if n != 'r2r' or (snr, seed) == (15, 0)]
            if not names:
                continue
            rows = rows_of(truth_of(clean, noise, snr, seed), about, names)
            table = with_ratios(pd.concat([table, pd.DataFrame(rows)], ignore_index=True))
            table.round(5).to_csv(out, index=False)
            write_json(out.with_suffix('.json'), facts())
    columns = ['seconds', 'ratio', 'psnr', 'bias', 'fa_error', 'within_std']
    groups = table.groupby(['noise', 'snr', 'method'])[columns]
    print(groups.agg(['mean', 'std']).round(3).to_string())


if __name__ == '__main__':
    main(*sys.argv[1:])
