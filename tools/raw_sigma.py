"""`python tools/raw_sigma.py [FOLDER [CSV]]`: the noise level from raw data against from the magnitude.

Real phantoms of FOLDER (phantom16.h5, phantom2.h5) and simulated heads of eight coils whose noise
has the correlation 0, 0.2 or 0.5 between neighbours on the ring, three seeds each. All levels are
those of a channel, over the truth: of the simulated scans the level that was simulated, of the
phantoms that of the coil images beside the object, over the whole readout.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mri_diffusion.core import environment, write_json
from mri_diffusion.noise.combine import combine_coils, magnitude_level, measure_coils
from mri_diffusion.noise.kspace import coil_maps, simulate_kspace
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.fourier import ifft2c
from mri_diffusion.scans.raw import RawScan, read_raw

SIGMA, COILS = 0.04, 8
BESIDE = np.r_[0:12, 116:128]  # Rows of the phantoms without signal


def simulated(rho, seed):
    "A head with noise of level SIGMA in every coil"
    image = torch.from_numpy(load_t1(downsample=2).data[:, :, 45].T.copy())
    d = (torch.arange(COILS)[:, None] - torch.arange(COILS)[None]).abs()
    cov = rho ** torch.minimum(d, COILS - d).double() if rho else torch.eye(COILS).double()
    gen = torch.Generator().manual_seed(seed)
    white = torch.randn(2, COILS, *image.shape, generator=gen, dtype=torch.float64)
    noise = torch.einsum('cd,dyx->cyx', torch.linalg.cholesky(cov).cdouble(), torch.complex(*white))
    k = simulate_kspace(image, coil_maps(image.shape, COILS)) + SIGMA * noise
    return RawScan(k.to(torch.complex64)[None, None], (2, 2, 2), None, (0, 1), {}, [])


def row(raw, truth):
    "Levels over the truth, and what was measured"
    coils, scan = measure_coils(raw), raw.images()
    n = len(coils.cov)
    told = lambda c: estimate_sigma(scan.data, 'background', None, c).number
    one, several = combine_coils(raw), combine_coils(raw, 'sos')
    beside = np.s_[:, BESIDE] if scan.shape[1] == 128 else np.s_[:, :6]
    unit = np.abs(one.data / one.sigma)[beside], (several.data / several.sigma)[beside]
    raw_air = scan.data[beside]
    return dict(
        coils=n,
        effective=coils.effective,
        correlation_mean=coils.between[0],
        correlation_max=coils.between[1],
        kspace=coils.sigma / truth,
        magnitude_effective=magnitude_level(raw, coils, scan) / truth,
        magnitude_told_all=told(n) / truth,
        magnitude_told_one=told(1) / truth,
        air_mean_over_std=raw_air.mean() / raw_air.std(),
        white_coils_mean_over_std=2 * n**0.5,
        whitened_mean_over_std=unit[1].mean() / unit[1].std(),
        adaptive_air_rms=np.sqrt((unit[0] ** 2).mean() / 2),
    )


def beside_object(raw):
    "Level of a channel of the coil images beside the object"
    images = ifft2c(raw.kspace[0, 0])[:, BESIDE]
    return float((images.abs().square().mean() / 2).sqrt())


def main(folder='../shared/data/raw_coils', out='results/raw_sigma.csv'):
    "Print the table, and keep it"
    rows = []
    for name in ('phantom16', 'phantom2'):
        path = Path(folder) / f'{name}.h5'
        if path.exists():
            raw = read_raw(path)
            rows.append(dict(scan=name, seed='') | row(raw, beside_object(raw)))
        else:
            print(f'{path}: not there, left out', file=sys.stderr)
    for rho in (0.0, 0.2, 0.5):
        rows += [
            dict(scan=f'simulated {rho}', seed=s) | row(simulated(rho, s), SIGMA) for s in (0, 1, 2)
        ]
    table = pd.DataFrame(rows).round(3)
    table.to_csv(out, index=False)
    facts = dict(command=f'python tools/raw_sigma.py {folder} {out}', seeds=[0, 1, 2], sigma=SIGMA)
    facts |= dict(coils=COILS, environment=environment())
    write_json(Path(out).with_suffix('.json'), facts, force=True)
    print(table.to_string(index=False))


if __name__ == '__main__':
    main(*sys.argv[1:])
