"""Fast methods for a series on a known truth: `series_table.py DWI_FOLDER [CSV]`.

The truth of the table of `r2r` (a tensor fitted to a real series, `known_truth`), three noise
levels and three seeds, all directions and six of them; no method is told the level.
"""

import sys
import time
from pathlib import Path

import pandas as pd

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import environment, write_json
from mri_diffusion.judge.tensors import six_direction_protocol
from mri_diffusion.judge.truth import crop_scan, known_truth, make_truth, score_series
from mri_diffusion.scans.nifti import Scan

CROP = '16:112,8:120,20:36'
METHODS = dict(mppca=dict(remove_bias=True), wiener={}, unet_pca={})


def one(truth, about):
    "A row for the noisy series and for each method"
    yield about | dict(method='noisy', seconds=0.0) | score_series(truth.noisy, truth)
    bare = truth.noisy
    bare = Scan.from_array(bare.data, bare.affine, bare.bvals, bare.bvecs)  # No mask is told
    for name, settings in METHODS.items():
        since = time.process_time()
        found = Denoiser(name, quiet=True, **settings).apply(bare).denoised
        took = time.process_time() - since
        yield about | dict(method=name, seconds=round(took, 1)) | score_series(found, truth)


def facts():
    "How and where the table was made"
    return dict(
        command='python tools/series_table.py FOLDER',
        crop=CROP,
        methods=METHODS,
        seeds=[0, 1, 2],
        note='seconds of a core on two cores beside other jobs',
        environment=environment(),
    )


def main(folder='../shared/data/dti32', out='results/series.csv'):
    "Print the table, and keep it"
    scan = crop_scan(Scan.load(Path(folder) / 'dwi.nii.gz'), CROP)
    clean = known_truth(scan, 15, 0).clean
    six = six_direction_protocol(scan.bvals, scan.bvecs, 'spread')
    rows = []
    for snr, volumes in ((8, None), (15, None), (30, None), (15, six)):
        for seed in range(3):
            truth = make_truth(clean, snr, seed)
            truth = truth if volumes is None else truth.take(volumes)
            rows += one(truth, dict(directions=int((~truth.clean.is_b0).sum()), snr=snr, seed=seed))
        pd.DataFrame(rows).round(5).to_csv(out, index=False)
    write_json(Path(out).with_suffix('.json'), facts())
    table = pd.DataFrame(rows).drop(columns='seed')
    print(table.groupby(['directions', 'snr', 'method']).agg(['mean', 'std']).round(3).to_string())


if __name__ == '__main__':
    main(*sys.argv[1:])
