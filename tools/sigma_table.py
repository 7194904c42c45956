"The noise level by each estimator over the truth of real repeats: `sigma_table.py [FOLDER [CSV]]`"

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from mri_diffusion.core import InputError
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.scans.nifti import auto_mask


def robust(v):
    "Median absolute deviation over that of a normal variable"
    return np.median(np.abs(v - np.median(v))) / 0.6745


def row(image, truth, how):
    "One estimator on one image"
    try:
        found = estimate_sigma(image, how)
    except InputError as e:
        return dict(estimator=how, ratio=np.nan, note=str(e)[:60])
    low, high = found.low / truth, found.high / truth
    inside = dict(low=low, high=high, width=high / low, covered=low <= 1 <= high)
    return dict(estimator=how, used=found.how, ratio=found.number / truth, **inside)


def main(folder='../shared/data/repeat_pairs', out='results/sigma.csv'):
    "Print the table, and keep it"
    rows = []
    for path in sorted(Path(folder).glob('*.nii.gz')):
        both = np.asarray(nib.load(path).dataobj, float)
        core = ndimage.binary_erosion(auto_mask(both.mean(-1)), np.ones((9, 9, 1)))
        truth = float(robust((both[..., 1] - both[..., 0])[core]) / 2**0.5)
        for v in (0, 1):
            for how in ('auto', 'object', 'background', 'wavelet'):
                name = path.name.removesuffix('.nii.gz')
                rows.append(dict(pair=name, volume=v, truth=truth) | row(both[..., v], truth, how))
    if not rows:
        sys.exit(f'{folder}: no pair of repeats (.nii.gz) there')
    table = pd.DataFrame(rows).round(3)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


if __name__ == '__main__':
    main(*sys.argv[1:])
