"""Golden results: run the command line on small inputs, keep what it gives, compare it later.

python golden.py write FILE.json    keeps results; entries that FILE holds already are left
python golden.py compare FILE.json  prints every difference; exit code 1 if there is one
Both take --only PATTERN (a regular expression on the names of entries).

Exact numbers hold for one machine, one set of libraries and one thread: write the file there and
compare it there. Two methods are named by what they do, since their names may change: {r2r} is the
series form of ddm2, {ddm2} the form that its authors published.
"""

# ruff: noqa: E402  (the threads are set before numpy is loaded)
import os

for _name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(_name, '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ['COLUMNS'] = '100'

import argparse
import contextlib
import csv
import difflib
import hashlib
import html
import importlib
import io
import json
import random
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

COMMAND_LINES = ('app.cli', 'cli')
LEFT_OUT = {'environment', 'Environment', 'Version', 'version', 'Date', 'date', 'GeneratedBy'}
SETTINGS = {'Parameters', 'config', 'settings', 'tiny', 'laptop', 'paper'}
FAMILY = ('ddm2', 'r2r')
PACKAGES = 'python|mri_diffusion|torch|monai|accelerate|dipy|nibabel|numpy'


# ---- Inputs: a head of ellipsoids, a diffusion series of it, and noise ----

AFFINE = np.array(
    [
        [1.96, -0.35, 0.1, -30.0],
        [0.36, 1.96, -0.2, -28.0],
        [-0.05, 0.17, 2.49, -20.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def radius(shape, centre, axes):
    "Distance from a centre in units of the axes of an ellipsoid; positions run from -1 to 1"
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing='ij')
    return np.sqrt(sum(((g - c) / a) ** 2 for g, c, a in zip(grids, centre, axes)))


def tissues(shape):
    "Masks of skin, brain, white matter and ventricles, each inside the one before"
    axes = [(0.72, 0.8, 0.8), (0.6, 0.68, 0.68), (0.42, 0.5, 0.48), (0.13, 0.28, 0.25)]
    return [radius(shape, (0, 0, 0), a) <= 1 for a in axes]


def head(shape=(32, 32, 16), seed=0):
    "A clean T1-weighted head, its largest value about 1000"
    image = np.zeros(shape)
    for where, value in zip(tissues(shape), (800.0, 450.0, 700.0, 150.0)):
        image[where] = value
    rng = np.random.default_rng(seed)
    for centre in rng.uniform(-0.4, 0.4, (6, 3)):
        image[radius(shape, centre, (0.12, 0.12, 0.15)) <= 1] *= rng.uniform(0.6, 1.3)
    return image


def directions(n):
    "n unit vectors spread over half a sphere"
    z, angle = (np.arange(n) + 0.5) / n, np.arange(n) * np.pi * (3 - 5**0.5)
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1)


def series(shape=(24, 24, 10), n_b0=3, n=12):
    "A clean diffusion series (X, Y, Z, V), its b-values and directions"
    b0, (_, brain, white, fluid) = head(shape, 1), tissues(shape)
    bvals = np.r_[np.zeros(n_b0), np.full(n, 1000.0)]
    bvecs = np.r_[np.zeros((n_b0, 3)), directions(n)]
    mean = np.where(fluid, 3e-3, np.where(white, 7e-4, np.where(brain, 9e-4, 1.5e-3)))
    along = np.where(white, 1e-3, 0.0)
    left = np.linspace(-1, 1, shape[0])[:, None, None] < 0
    first, second = bvecs[:, 0] ** 2 - 1 / 3, bvecs[:, 1] ** 2 - 1 / 3
    cosine = np.where(left[..., None], first, second)
    return (
        b0[..., None] * np.exp(-bvals * (mean[..., None] + along[..., None] * cosine)),
        bvals,
        bvecs,
    )


def noisy(clean, sigma, seed, coils=1, correlated=False):
    "The magnitude of a clean image with complex noise in every coil"
    rng, power = np.random.default_rng(seed), 0.0
    for _ in range(coils):
        real, imaginary = sigma * rng.standard_normal((2, *clean.shape))
        if correlated:
            real, imaginary = smooth(real), smooth(imaginary)
        power = power + (clean / coils**0.5 + real) ** 2 + imaginary**2
    return np.sqrt(power)


def smooth(noise):
    "Noise that neighbours in the plane share, its standard deviation as before"
    weights = (0.25, 0.5, 0.25)
    for axis in (0, 1):
        noise = sum(w * np.roll(noise, d, axis) for d, w in zip((-1, 0, 1), weights))
    return noise / sum(w**2 for w in weights)


def save(path, data, affine=AFFINE, dtype=np.float32):
    "Write a NIfTI file"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(data, dtype), affine)
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, path)


def save_series(path, data, bvals, bvecs):
    "Write a series with its b-values and directions beside it"
    save(path, data)
    stem = str(path).removesuffix('.nii.gz')
    np.savetxt(f'{stem}.bval', bvals[None], '%g')
    np.savetxt(f'{stem}.bvec', bvecs.T, '%.6f')


def save_slices(folder, data):
    "Write the slices of a volume as PNG files of eight bits"
    folder.mkdir()
    values = np.uint8(np.clip(data / data.max() * 255, 0, 255))
    for i in range(data.shape[2]):
        Image.fromarray(values[:, :, i].T).save(folder / f'slice{i}.png')


def make_volumes(folder):
    "Single volumes: clean, noisy, with shading, with shared noise, of eight coils, masked"
    clean = head()
    shading = 1 + 0.4 * np.linspace(-1, 1, 32)[:, None, None]
    save(folder / 'clean.nii.gz', clean)
    save(folder / 't1.nii.gz', noisy(clean, 40.0, 1))
    save(folder / 'other.nii.gz', noisy(head(seed=5), 40.0, 2))
    save(folder / 'shaded.nii.gz', noisy(clean * shading, 40.0, 3))
    save(folder / 'shared.nii.gz', noisy(clean, 40.0, 4, correlated=True))
    save(folder / 'coils.nii.gz', noisy(clean, 40.0, 5, coils=8))
    save(folder / 'blank.nii.gz', noisy(clean, 40.0, 6) * tissues(clean.shape)[0])
    save(folder / 'mask.nii.gz', tissues(clean.shape)[1], dtype=np.uint8)
    save(folder / 'sigma.nii.gz', 40 * shading * np.ones(clean.shape))
    save(folder / 'whole.nii.gz', noisy(clean, 40.0, 7), dtype=np.int16)


def make_series(folder):
    "Diffusion series: clean, noisy, short, with shared noise, of eight coils; and repeats"
    clean, bvals, bvecs = series()
    save_series(folder / 'dwi_clean.nii.gz', clean, bvals, bvecs)
    save_series(folder / 'dwi.nii.gz', noisy(clean, 30.0, 11), bvals, bvecs)
    save_series(folder / 'dwi_other.nii.gz', noisy(clean, 30.0, 12), bvals, bvecs)
    save_series(folder / 'dwi_shared.nii.gz', noisy(clean, 30.0, 13, 1, True), bvals, bvecs)
    save_series(folder / 'dwi_coils.nii.gz', noisy(clean, 30.0, 14, 8), bvals, bvecs)
    save(folder / 'dwi_mask.nii.gz', tissues(clean.shape[:3])[1], dtype=np.uint8)
    few = np.r_[0, 3:9]
    save_series(folder / 'dwi_few.nii.gz', noisy(clean[..., few], 30.0, 15), bvals[few], bvecs[few])
    repeated = np.repeat(head()[..., None], 4, 3)
    save(folder / 'repeats.nii.gz', noisy(repeated, 40.0, 16))
    save(folder / 'noise_scan.nii.gz', noisy(np.zeros((32, 32, 16)), 40.0, 17))


def make_bids(root):
    "A BIDS folder of two participants at two field strengths"
    clean, bvals, bvecs = series()
    for i, tesla in enumerate((3, 1.5)):
        sub = root / f'sub-0{i + 1}'
        save(sub / 'anat' / f'{sub.name}_T1w.nii.gz', noisy(head(), 40.0, 20 + i))
        facts = json.dumps(dict(MagneticFieldStrength=tesla))
        (sub / 'anat' / f'{sub.name}_T1w.json').write_text(facts)
        (sub / 'dwi').mkdir()
        data = noisy(clean, 30.0, 30 + i)
        save_series(sub / 'dwi' / f'{sub.name}_dwi.nii.gz', data, bvals, bvecs)
        (sub / 'dwi' / f'{sub.name}_dwi.json').write_text(facts)
    (root / 'dataset_description.json').write_text(json.dumps(dict(Name='x', BIDSVersion='1.9.0')))


def make_broken(folder):
    "Inputs that must be refused"
    clean = head()
    (folder / 'text.nii.gz').write_text('no image')
    save(folder / 'nan.nii.gz', np.where(clean > 700, np.nan, clean))
    save(folder / 'constant.nii.gz', np.full(clean.shape, 5.0))
    save(folder / 'moved.nii.gz', tissues(clean.shape)[1], AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 9)
    save(folder / 'small.nii.gz', head((20, 20, 10)))
    save(folder / 'empty.nii.gz', np.zeros(clean.shape), dtype=np.uint8)
    data, bvals, bvecs = series()
    save(folder / 'bare.nii.gz', noisy(data, 30.0, 18))
    np.savetxt(folder / 'short.bval', bvals[None, :5], '%g')
    (folder / 'nothing').mkdir()
    (folder / 'sweep.json').write_text('{"seed": [0, 1]')


def make_inputs(folder):
    "Every input, with fixed seeds"
    folder.mkdir()
    for make in (make_volumes, make_series, make_broken):
        make(folder)
    make_bids(folder / 'bids')
    save_slices(folder / 'slices', noisy(head(), 40.0, 8)[:, :, 4:12])


# ---- Entries: name -> command lines; IN/ is the folder of inputs ----

MAPS = '--residual residual.nii.gz --noise-map noise.nii.gz'


def denoise(method, scan, more='', out='out.nii.gz'):
    "A denoise command with its maps"
    return f'denoise IN/{scan} {out} --method {method} --preset tiny {MAPS} {more}'.strip()


def supervised():
    "Methods that learn from pairs: training, and scans of three and four axes"
    found = {}
    pair = 'IN/t1.nii.gz --clean IN/clean.nii.gz'
    for m in ('unet', 'diffusion', 'nafnet'):
        found[m] = [
            f'train {m} {pair} --out model --preset tiny --json',
            f'train {m} {pair} --out model --preset tiny',
            f'denoise IN/t1.nii.gz out.nii.gz --method {m} --model model {MAPS}',
            'denoise IN/dwi.nii.gz series.nii.gz --model model --json',
            'denoise IN/t1.nii.gz told.nii.gz --model model --sigma 40 --seed 3 --set window 12',
        ]
    found['unet-simulated'] = [
        'train unet --clean IN/clean.nii.gz --out model --preset tiny '
        '--steps 5 --seed 2 --set kinds rician,gaussian --set correlation 1'
    ]
    found['diffusion-series'] = [
        'train diffusion IN/dwi.nii.gz IN/dwi_other.nii.gz --out model --preset tiny '
        '--clean IN/dwi_clean.nii.gz IN/dwi_clean.nii.gz',
        f'denoise IN/dwi.nii.gz out.nii.gz --model model {MAPS}',
    ]
    found['diffusion-schedules'] = [
        f'train diffusion --clean IN/clean.nii.gz --out {s} --preset tiny --set schedule {s} '
        '--steps 3'
        for s in ('linear', 'cosine', 'fitted')
    ]
    return found


def self_supervised():
    "Methods that learn from the scan itself"
    found = {}
    for m in ('noise2score', 'corruption2self', 'dip', 'diffdenoise'):
        std = '--std std.nii.gz' if m == 'diffdenoise' else ''
        found[m] = [denoise(m, 't1.nii.gz', std)]
        found[f'{m}-told'] = [denoise(m, 't1.nii.gz', '--sigma 40 --seed 1')]
        found[f'{m}-shared'] = [denoise(m, 'shared.nii.gz')]
        found[f'{m}-coils'] = [denoise(m, 'coils.nii.gz')]
        if m != 'dip':
            found[f'{m}-series'] = [denoise(m, 'dwi.nii.gz')]
    found['n2n'] = [denoise('n2n', 'repeats.nii.gz', '--set repeats all')]
    found['n2n-not-said'] = [denoise('n2n', 'repeats.nii.gz')]
    found['n2n-dwi'] = [denoise('n2n', 'dwi.nii.gz', '--set others keep')]
    return found


def diffdenoise():
    "Forms and settings of diffdenoise"
    run = lambda more, scan='t1.nii.gz': [denoise('diffdenoise', scan, more)]
    samples = '--set use sample --set pairs 2 --std std.nii.gz'
    return {
        'diffdenoise-published': run('--set form published'),
        'diffdenoise-published-samples': run(f'--set form published {samples}'),
        'diffdenoise-samples': run(samples),
        'diffdenoise-mask': run('--mask IN/mask.nii.gz --sigma IN/sigma.nii.gz'),
        'diffdenoise-context': run('--set context 1 --set blind halfplane'),
        'diffdenoise-side': run('--set side 3', 'shared.nii.gz'),
        'diffdenoise-model': [
            'train diffdenoise IN/t1.nii.gz --out model --preset tiny',
            denoise('diffdenoise', 'other.nii.gz', '--model model'),
            'denoise IN/t1.nii.gz again.nii.gz --model model --set use sample',
        ],
    }


def of_series():
    "The two methods that learn from a diffusion series"
    found, std = {}, '--std std.nii.gz'
    for m in ('{r2r}', '{ddm2}'):
        name, more = m[1:-1], std if m == '{r2r}' else f'{std} --set samples 2'
        found[name] = [denoise(m, 'dwi.nii.gz', more)]
        found[f'{name}-plain'] = [
            f'denoise IN/dwi.nii.gz out.nii.gz --method {m} --preset tiny --json'
        ]
        found[f'{name}-model'] = [
            f'train {m} IN/dwi.nii.gz --out model --preset tiny --seed 4',
            denoise(m, 'dwi_other.nii.gz', '--model model'),
            'denoise IN/dwi.nii.gz again.nii.gz --model model',
        ]
        found[f'{name}-mask'] = [denoise(m, 'dwi.nii.gz', '--mask IN/dwi_mask.nii.gz --sigma 30')]
        found[f'{name}-shared'] = [denoise(m, 'dwi_shared.nii.gz')]
        found[f'{name}-coils'] = [denoise(m, 'dwi_coils.nii.gz')]
        found[f'{name}-few'] = [denoise(m, 'dwi_few.nii.gz')]
        found[f'{name}-bare'] = [denoise(m, 'bare.nii.gz')]
        found[f'{name}-repeats'] = [denoise(m, 'repeats.nii.gz')]
        found[f'{name}-volume'] = [denoise(m, 't1.nii.gz')]
        tables = '--bval IN/dwi.bval --bvec IN/dwi.bvec --seed 2'
        found[f'{name}-tables'] = [denoise(m, 'bare.nii.gz', tables)]
    found['r2r-bias'] = [denoise('{r2r}', 'dwi.nii.gz', '--bias-field restore')]
    found['r2r-choose'] = [
        'train {r2r} IN/dwi.nii.gz --out model --preset tiny',
        'denoise IN/dwi.nii.gz out.nii.gz --model model --choose level 0.7,1,1.3',
    ]
    more = '--set neighbours acquisition --set schedule linear --set dims 3'
    found['ddm2-settings'] = [denoise('{ddm2}', 'dwi.nii.gz', more)]
    return found


def classical():
    "Methods that learn nothing"
    found = {}
    for m in ('identity', 'blur', 'floor', 'nlmeans'):
        found[m] = [denoise(m, 't1.nii.gz')]
        found[f'{m}-series'] = [denoise(m, 'dwi.nii.gz')]
    for m in ('mppca', 'patch2self'):
        found[m] = [denoise(m, 'dwi.nii.gz')]
        found[f'{m}-bias'] = [denoise(m, 'dwi.nii.gz', '--set remove_bias true --sigma 30')]
        found[f'{m}-few'] = [denoise(m, 'dwi_few.nii.gz')]
        found[f'{m}-shared'] = [denoise(m, 'dwi_shared.nii.gz')]
        found[f'{m}-coils'] = [denoise(m, 'dwi_coils.nii.gz')]
    return found


def options():
    "Options of denoise, on fast methods"
    nlm = lambda scan, more='': [denoise('nlmeans', scan, more)]
    return {
        'mask': nlm('t1.nii.gz', '--mask IN/mask.nii.gz'),
        'sigma-number': nlm('t1.nii.gz', '--sigma 35 --json'),
        'sigma-map': nlm('t1.nii.gz', '--sigma IN/sigma.nii.gz'),
        'bias-correct': nlm('shaded.nii.gz', '--bias-field correct'),
        'bias-restore': nlm('shaded.nii.gz', '--bias-field restore --mask IN/mask.nii.gz'),
        'shared-noise': nlm('shared.nii.gz'),
        'eight-coils': nlm('coils.nii.gz'),
        'blanked-air': nlm('blank.nii.gz'),
        'whole-numbers': nlm('whole.nii.gz', '--set block_radius 2'),
        'choose-width': [denoise('blur', 't1.nii.gz', '--choose width 0.4,0.8,1.6')],
        'choose-level': nlm('t1.nii.gz', '--choose level 0.7,1,1.4 --mask IN/mask.nii.gz'),
        'choose-coils': [denoise('blur', 'coils.nii.gz', '--choose width 0.4,0.8')],
        'choose-shared': [denoise('blur', 'shared.nii.gz', '--choose width 0.4,0.8')],
        'slices': [
            'denoise IN/slices out --method nlmeans --preset tiny --residual res.nii.gz',
            'denoise IN/slices/slice2.png one.png --method blur --preset tiny',
            'denoise IN/slices nifti.nii.gz --method blur --preset tiny',
            'evaluate out --noisy IN/slices',
            'noise IN/slices',
        ],
        'slices-learned': [
            'train diffdenoise IN/slices --out model --preset tiny',
            'denoise IN/slices out --method diffdenoise --model model',
        ],
        'quiet': ['denoise IN/t1.nii.gz out.nii.gz --method blur --preset tiny --quiet'],
        'uncompressed': [
            'denoise IN/t1.nii.gz new/out.nii --method blur --preset tiny',
            'denoise IN/t1.nii.gz new/out.nii --method floor --preset tiny --force',
        ],
        'report': [
            'denoise IN/t1.nii.gz out.nii.gz --method nlmeans --preset tiny --sigma 40 '
            '--report page.html'
        ],
    }


def simulations():
    "Noise of each kind, and its options"
    command = 'simulate IN/{} out.nii.gz --sigma-map map.nii.gz {}'
    make = lambda more, scan='clean.nii.gz': [command.format(scan, more)]
    found = {
        f'simulate-{kind}': make(f'--noise {kind} --snr 12 --seed 3')
        for kind in ('rician', 'ncchi', 'gaussian', 'poisson', 'gamma')
    }
    found['simulate-coils'] = make('--noise ncchi --coils 8 --sigma 30')
    found['simulate-correlated'] = make('--snr 10 --correlation 2.5 --mask IN/mask.nii.gz')
    found['simulate-uneven'] = make('--snr 10 --gfactor 2 --json')
    found['simulate-series'] = make('--snr 15 --gfactor 1.5 --correlation 2', 'dwi_clean.nii.gz')
    found['simulate-slices'] = [
        'simulate IN/slices out --snr 8',
        'simulate IN/slices o.nii.gz --snr 8',
    ]
    return found


def noise_levels():
    "What noise says of each scan, and by each estimator"
    scans = (
        't1',
        'shared',
        'coils',
        'blank',
        'repeats',
        'dwi',
        'dwi_shared',
        'dwi_coils',
        'dwi_few',
    )
    keep = '--json found.json --map map.nii.gz'
    found = {f'noise-{s}': [f'noise IN/{s}.nii.gz {keep}'] for s in scans}
    for how in ('piesno', 'mppca', 'repeats', 'wavelet', 'background', 'noise_scan'):
        scan = 'noise_scan' if how == 'noise_scan' else 'dwi'
        found[f'noise-how-{how}'] = [f'noise IN/{scan}.nii.gz --how {how} {keep}']
    found['noise-options'] = [
        'noise IN/coils.nii.gz --coils 8 --mask IN/mask.nii.gz',
        'noise IN/bare.nii.gz --bval IN/dwi.bval',
        'noise IN/t1.nii.gz --how background',
        'noise IN/t1.nii.gz --how wavelet',
    ]
    return found


def evaluations():
    "Measures of a denoised scan"
    blur = 'denoise IN/{} out.nii.gz --method blur --preset tiny'
    t1, dwi = blur.format('t1.nii.gz'), blur.format('dwi.nii.gz')
    ask, clean = 'evaluate out.nii.gz --json found.json', '--clean IN/clean.nii.gz'
    series = '--clean IN/dwi_clean.nii.gz'
    return {
        'evaluate-clean': [t1, f'{ask} {clean}'],
        'evaluate-all': [t1, f'{ask} {clean} --noisy IN/t1.nii.gz --mask IN/mask.nii.gz'],
        'evaluate-noisy': [t1, f'{ask} --noisy IN/t1.nii.gz'],
        'evaluate-repeats': [t1, f'{ask} --repeats IN/repeats.nii.gz --noisy IN/t1.nii.gz'],
        'evaluate-series': [dwi, f'{ask} {series} --noisy IN/dwi.nii.gz'],
        'evaluate-series-mask': [dwi, f'{ask} {series} --mask IN/dwi_mask.nii.gz'],
        'evaluate-bare': [
            'evaluate IN/bare.nii.gz --clean IN/dwi_clean.nii.gz',
            'evaluate IN/bare.nii.gz --clean IN/dwi_clean.nii.gz --bval IN/dwi.bval '
            '--bvec IN/dwi.bvec',
        ],
    }


def batches():
    "A BIDS folder, by methods of each kind"
    run = 'batch IN/bids out participant --preset tiny --method'
    return {
        'batch-volumes': [
            f'{run} nlmeans --suffix T1w --also residual noise-map',
            f'{run} nlmeans --suffix T1w --also residual noise-map',
            f'{run} nlmeans --suffix T1w',
        ],
        'batch-series': [f'{run} mppca --participant-label 02 --json'],
        'batch-r2r': [f'{run} {{r2r}} --also std --participant-label 01'],
        'batch-ddm2': [f'{run} {{ddm2}} --participant-label 01'],
        'batch-per-field': [f'{run} diffdenoise --suffix T1w --per-field'],
        'batch-wrong': [
            f'{run} dip --suffix dwi',
            f'{run} nlmeans --also pictures',
            f'{run} unet',
            'batch IN/bids out group --method blur',
            'batch IN/nothing out participant --method blur',
            f'{run} blur --participant-label 07',
            f'{run} blur --suffix FLAIR',
        ],
    }


def runs():
    "Experiments, and the lists"
    commands = 'methods simulate noise train denoise evaluate run batch'
    return {
        'methods': ['methods'],
        'methods-json': ['methods --json'],
        'run-list': ['run --list'],
        'run-compare': [
            'run compare -p preset tiny -p steps 4 --out out',
            'run compare -p preset tiny -p steps 5 --out out',
        ],
        'run-dti': ['run dti -p preset tiny -p methods identity,blur,mppca --out out'],
        'run-wrong': [
            'run nothing --out out',
            'run compare',
            'run compare -p colour red --out out',
            'run compare -p seed x --out out',
            'run compare -p seed -1 --out out',
            'run compare --sweep IN/sweep.json --out out',
        ],
        'help': ['--help', *(f'{c} --help' for c in commands.split())],
    }


def refusals():
    "Inputs that must be refused in one line"
    t1 = 'denoise IN/t1.nii.gz out.nii.gz --preset tiny'
    out = 'out.nii.gz --method blur --preset tiny'
    pair = 'IN/t1.nii.gz --clean IN/clean.nii.gz --out model --preset tiny --steps 1'
    lines = {
        'missing': f'denoise IN/absent.nii.gz {out}',
        'text': f'denoise IN/text.nii.gz {out}',
        'nan': f'denoise IN/nan.nii.gz {out}',
        'empty-folder': f'denoise IN/nothing {out}',
        'constant': 'denoise IN/constant.nii.gz out.nii.gz --method nlmeans',
        'volume-for-series': f'{t1} --method mppca',
        'series-for-volume': 'denoise IN/dwi.nii.gz out.nii.gz --method dip --preset tiny',
        'unknown-setting': f'{t1} --method nlmeans --set colour 3',
        'bad-setting': f'{t1} --method nlmeans --set patch_radius wide',
        'unknown-method': f'{t1} --method magic',
        'no-method': t1,
        'unknown-preset': 'denoise IN/t1.nii.gz out.nii.gz --method blur --preset huge',
        'choose-one': f'{t1} --method blur --choose width 1',
        'choose-unknown': f'{t1} --method blur --choose colour 1,2',
        'choose-alike': f'{t1} --method identity --choose level 1,2',
        'std': f'{t1} --method nlmeans --std std.nii.gz',
        'no-model': f'{t1} --method unet',
        'absent-model': f'{t1} --method unet --model absent',
        'needless-model': f'{t1} --method blur --model absent',
        'clean-for-n2n': 'train n2n IN/repeats.nii.gz --clean IN/clean.nii.gz --out model',
        'no-clean': 'train unet IN/t1.nii.gz --out model --preset tiny',
        'unequal': f'train unet IN/t1.nii.gz {pair}',
        'no-steps': f'train unet {pair} --steps 0',
        'learns-nothing': 'train nlmeans IN/t1.nii.gz --out model',
        'too-few-repeats': 'train n2n IN/dwi_few.nii.gz --out model --preset tiny',
        'sigma-negative': f'{t1} --method nlmeans --sigma -4',
        'sigma-grid': f'{t1} --method nlmeans --sigma IN/small.nii.gz',
        'mask-grid': f'{t1} --method blur --mask IN/moved.nii.gz',
        'mask-empty': f'{t1} --method blur --mask IN/empty.nii.gz',
        'bvals': 'denoise IN/bare.nii.gz out.nii.gz --method mppca --bval IN/short.bval',
        'jpeg': 'denoise IN/t1.nii.gz out.jpg --method blur',
        'png-of-nifti': 'denoise IN/t1.nii.gz out.png --method blur',
        'own-input': 'denoise IN/t1.nii.gz IN/t1.nii.gz --method blur --force',
        'same-name': f'{t1} --method blur --residual out.nii.gz',
        'bias-field': f'{t1} --method blur --bias-field away',
        'seed': f'{t1} --method blur --seed -1',
        'device': f'{t1} --method blur --device abacus',
        'report-name': f'{t1} --method blur --report r.txt',
        'simulate-no-level': 'simulate IN/clean.nii.gz out.nii.gz',
        'simulate-kind': 'simulate IN/clean.nii.gz out.nii.gz --snr 5 --noise pink',
        'simulate-coils': 'simulate IN/clean.nii.gz out.nii.gz --snr 5 --coils 4',
        'noise-how': 'noise IN/t1.nii.gz --how guess',
        'noise-piesno': 'noise IN/t1.nii.gz --how piesno',
        'evaluate-nothing': 'evaluate IN/t1.nii.gz',
        'evaluate-grid': 'evaluate IN/t1.nii.gz --clean IN/small.nii.gz',
        'evaluate-both': 'evaluate IN/t1.nii.gz --clean IN/clean.nii.gz --repeats IN/repeats.nii.gz',
        'command': 'paint IN/t1.nii.gz',
        'option': f'{t1} --method blur --colour red',
        'argument': 'denoise IN/t1.nii.gz',
        'clean-for-r2r': 'train {r2r} IN/dwi.nii.gz --clean IN/dwi_clean.nii.gz --out model',
    }
    found = {f'refuse-{k}': [v] for k, v in lines.items()}
    blur = f'{t1} --method blur'
    found['refuse-existing'] = [blur, blur]
    found['refuse-other-method'] = [
        f'train unet {pair}',
        f'{t1} --method nafnet --model model',
        f'train unet {pair} --seed 1',
        f'train unet {pair} --seed 1 --force',
        f'{t1} --model model --set size small',
        'denoise IN/t1.nii.gz out.nii.gz --model model --preset laptop',
    ]
    found['refuse-fixed-setting'] = [
        'train noise2score IN/t1.nii.gz --out model --preset tiny --steps 2',
        'denoise IN/t1.nii.gz out.nii.gz --model model --set first 0.5',
        'denoise IN/t1.nii.gz out.nii.gz --method corruption2self --model model',
    ]
    return found


def entries():
    "Every entry: name -> command lines"
    parts = (
        runs,
        classical,
        options,
        simulations,
        noise_levels,
        evaluations,
        supervised,
        of_series,
        self_supervised,
        diffdenoise,
        batches,
        refusals,
    )
    return {name: lines for part in parts for name, lines in part().items()}


# ---- The layout that is found: where its command line is, and how its methods are called ----


class Layout:
    "The command line of this checkout, and the names that the two methods of series have in it"

    def __init__(self):
        self.main = find_main()
        methods = {m['name']: m for m in json.loads(call(self.main, ['methods', '--json'])['out'])}
        self.renamed = 'r2r' in methods
        has_form = 'form' in methods['ddm2']['presets']['tiny']
        form = ' --set form published' if has_form else ''
        self.words = dict(r2r='r2r' if self.renamed else 'ddm2', ddm2='ddm2' + form)

    def line(self, line):
        "A command line as this layout takes it"
        for name, words in self.words.items():
            line = line.replace(f'{{{name}}}', words)
        return shlex.split(line.replace('IN/', '../in/'))

    def neutral(self, text, family):
        "Text without the names of this layout; out of lists of methods both are left out"
        text = re.sub(r'\b(ddm2|r2r), (?=[a-z0-9])', '', text)
        text = re.sub(r'(?<=[a-z0-9]), (ddm2|r2r)\b', '', text)
        if not family:
            return re.sub(r'\b(ddm2|r2r)\b', '<ddm2 or r2r>', text)
        name = r'(?<![a-zA-Z0-9])(ddm2|r2r)(?![a-zA-Z0-9])'
        return re.sub(name, r'<\1>' if self.renamed else f'<{family}>', text)


def package_folder():
    "Where the package lies that is imported first"
    return Path(importlib.import_module('mri_diffusion').__file__).resolve().parent


def find_main():
    "The function behind the command line, in whichever layout this package has"
    for name in COMMAND_LINES:
        if (package_folder() / (name.replace('.', '/') + '.py')).is_file():
            return importlib.import_module(f'mri_diffusion.{name}').main
    raise SystemExit(f'golden: no command line in {package_folder()}')


def check_modules():
    "Stop if some module came from another checkout, as an editable installation can do"
    loaded = {n: getattr(m, '__file__', None) for n, m in list(sys.modules.items())}
    for name, file in loaded.items():
        if name.partition('.')[0] != 'mri_diffusion' or not file:
            continue
        if package_folder() not in Path(file).resolve().parents:
            raise SystemExit(f'golden: {name} comes from {file}, not from {package_folder()}')


def family_of(lines):
    "r2r or ddm2 if the command lines name one of them, else nothing"
    return next((m for m in ('r2r', 'ddm2') if any(f'{{{m}}}' in line for line in lines)), '')


# ---- Running ----


def call(main, words):
    "Exit code, stdout and stderr of one command line"
    import torch

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as e:
            code = e.code
    return dict(code=code, out=out.getvalue(), err=err.getvalue())


@contextlib.contextmanager
def inside(folder):
    "Work in a new folder; the environment afterwards is that of before"
    before, environ = os.getcwd(), dict(os.environ)
    folder.mkdir()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environ)


def run_entry(layout, name, lines, root):
    "Everything that an entry gives, as plain values under neutral names"
    with inside(root / name):
        said = [call(layout.main, layout.line(line)) for line in lines]
    commands = [tidy_command(found, root) for found in said]
    files = {str(p.relative_to(root / name)): file_record(p, root) for p in kept_files(root / name)}
    check_modules()
    family = family_of(lines)
    record = each_text(dict(commands=commands, files=files), lambda t: layout.neutral(t, family))
    record['lines'] = lines
    if name.startswith('run-') and name != 'run-list':
        without_numbers(record)
    return special(name, record, said)


def special(name, record, said):
    "The lists of methods and of experiments, entry by entry; those of series without their forms"
    first, text = record['commands'][0], said[0]['out']
    if name == 'methods-json':
        first['out'] = methods_record(json.loads(text))
    if name == 'methods':
        first['out'] = blocks(text, (*FAMILY, 'method '))
    if name == 'run-list':
        first['out'] = blocks(text, FAMILY)
    return record


def methods_record(table):
    "Methods by name; of r2r and ddm2 only what a change of names leaves alone"
    found = {m['name']: m for m in table}
    kept = ('needs', 'needs_sigma', 'dimensions', 'uncertainty')
    both = dict(r2r=found.pop('r2r', found['ddm2']), ddm2=found.pop('ddm2'))
    for name, m in both.items():
        tiny = {k: v for k, v in m['presets']['tiny'].items() if k != 'form'}
        found[name] = {**{k: m[k] for k in kept}, 'settings': tiny}
    return found


def blocks(text, without):
    "Paragraphs (their further lines are indented) by their first word, those `without` left out"
    parts = [' '.join(p.split()) for p in re.split(r'(?m)^(?=\S)', text) if p.strip()]
    return {p.split()[0]: p for p in parts if not p.startswith(tuple(without))}


def without_numbers(record):
    "What an experiment prints, without its numbers: they stand in result.json, times left out"
    for c in record['commands']:
        if c['code']:
            continue
        c['out'] = re.sub(r'[-+]?\d[\d.,e+-]*', '#', re.sub(r' +', ' ', c['out']))


# ---- Records ----


def each_text(value, change):
    "A nesting of plain values with every text changed, keys too"
    if isinstance(value, dict):
        return {change(k): each_text(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [each_text(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


def tidy_command(found, root):
    "What a command line said, free of places and times"
    out, err = printed(found['out'], root), tidy(found['err'], root)
    return dict(code=found['code'], out=out, err=err)


def printed(text, root):
    "What a command printed: JSON as plain values, all else as text"
    if text.startswith(('{', '[')):
        with contextlib.suppress(ValueError):
            return tidy_json(json.loads(text), root)
    return tidy(text, root)


def tidy(text, root):
    "Text as a terminal shows it, without bars, folders, dates, versions and seconds"
    lines = [line.rsplit('\r', 1)[-1].replace('\x1b[A', '').rstrip() for line in text.split('\n')]
    text = '\n'.join(line for line in lines if line and not re.search(r'\d+%\|.*\d+/\d+', line))
    text = text.replace(str(root), '<root>')
    text = re.sub(r'\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?', '<date>', text)
    text = re.sub(rf'\b({PACKAGES}) \d+\.\d[\w.+]*', r'\1 <version>', text)
    text = re.sub(r'\b(done|failed|skipped)( +)[\d.]+$', r'\1 <seconds>', text, flags=re.M)
    return re.sub(r'\b\d+(\.\d+)? s\b', '<seconds> s', text)


def tidy_json(value, root):
    "Plain values without environment, versions, dates, times and folders"
    if isinstance(value, dict):
        return {k: tidy_json(v, root) for k, v in value.items() if not is_left_out(k)}
    if isinstance(value, list):
        return [tidy_json(v, root) for v in value]
    return tidy(value, root) if isinstance(value, str) else value


def is_left_out(key):
    "Whether a key holds what differs from run to run"
    return key in LEFT_OUT or bool(re.search('second|memory', key.lower()))


def kept_files(folder):
    "The files to record, sorted; of a training only its settings"

    def kept(p):
        inner = set(p.relative_to(folder).parts[:-1])
        if not p.is_file() or 'checkpoint' in inner or p.name == 'env.json':
            return False
        return 'training' not in inner or p.name == 'settings.json'

    return sorted(p for p in folder.rglob('*') if kept(p))


def file_record(path, root):
    "What is kept of a file; of a kind that is not known its name alone"
    name = path.name
    if name.endswith(('.nii', '.nii.gz')):
        return image_record(path)
    if name.endswith('.safetensors'):
        return digest(path.read_bytes())
    if name.endswith('.json'):
        return tidy_json(json.loads(path.read_text()), root)
    if name.endswith('.csv'):
        return table_record(path, root)
    if name.endswith(('.bval', '.bvec', '.txt')):
        return tidy(path.read_text(), root)
    if name.endswith('.html'):
        return page_record(path, root)
    if name.endswith('.png') and path.parent.name != 'figures':
        return picture_record(path)
    return None


def digest(raw):
    "The first 16 digits of a SHA-256"
    return hashlib.sha256(raw).hexdigest()[:16]


def statistics(data):
    "Digest of an array, and numbers to read"
    low, mean, high = (float(f(data)) for f in (np.min, lambda d: np.mean(d, dtype=float), np.max))
    sha256 = digest(np.ascontiguousarray(data).tobytes())
    return dict(shape=list(data.shape), sha256=sha256, min=low, mean=mean, max=high)


def image_record(path):
    "Values, geometry and type of a NIfTI file"
    image = nib.load(path)
    found = statistics(np.asarray(image.dataobj, np.float32))
    zooms = [float(z) for z in image.header.get_zooms()]
    codes = [int(image.header[k]) for k in ('qform_code', 'sform_code')]
    return dict(
        found,
        dtype=str(image.get_data_dtype()),
        affine=image.affine.tolist(),
        zooms=zooms,
        codes=codes,
    )


def picture_record(path):
    "Values and type of a picture"
    with Image.open(path) as picture:
        return dict(statistics(np.asarray(picture)), mode=picture.mode)


def table_record(path, root):
    "Rows of a table without its times"
    with open(path, newline='') as f:
        return [tidy_json(row, root) for row in csv.DictReader(f)]


def page_record(path, root):
    "The words of a page, line by line"
    text = re.sub(r'(?s)<(style|script|head)\b.*?</\1>', '', path.read_text())
    text = html.unescape(re.sub(r'(?s)<[^>]*>', '\n', text))
    return tidy('\n'.join(line.strip() for line in text.split('\n') if line.strip()), root)


# ---- Comparison ----


def differences(old, new, where, lenient):
    "Lines that say where two records differ; `lenient`: settings may be missing in the new one"
    kinds = {type(old), type(new)}
    if kinds == {dict}:
        yield from dict_differences(old, new, where, lenient)
    elif kinds == {list} and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new)):
            yield from differences(a, b, f'{where}[{i}]', lenient)
    elif old != new:
        yield f'{where}: {changed(old, new)}'


def dict_differences(old, new, where, lenient):
    "The same for two dicts"
    settings = lenient and re.split(r'[/\[]', where)[-1] in SETTINGS
    for k in dict.fromkeys([*old, *new]):
        if k not in new:
            if not settings:
                yield f'{where}/{k}: missing, was {short(old[k])}'
        elif k not in old:
            yield f'{where}/{k}: new, {short(new[k])}'
        else:
            yield from differences(old[k], new[k], f'{where}/{k}', lenient)


def changed(old, new):
    "Two values; of texts of several lines the lines that differ"
    if {type(old), type(new)} != {str} or '\n' not in old + new:
        return f'{short(old)} -> {short(new)}'
    lines = difflib.unified_diff(old.split('\n'), new.split('\n'), lineterm='', n=0)
    return '\n    '.join(['', *(x for x in lines if not x.startswith(('---', '+++', '@@')))])


def short(value, limit=300):
    "A value in one line"
    text = json.dumps(value)
    return text if len(text) <= limit else text[:limit] + '...'


# ---- Command line ----


def write_json(path, values):
    "Write a file whole or not at all"
    part = path.with_name(path.name + '.part')
    part.write_text(json.dumps(values, indent=1) + '\n')
    part.replace(path)


def results(names, known):
    "Run entries one by one in a temporary folder: name, record and seconds of each"
    layout = Layout()
    with tempfile.TemporaryDirectory(prefix='golden-') as folder:
        root = Path(folder).resolve()
        make_inputs(root / 'in')
        for name in names:
            start = time.perf_counter()
            record = run_entry(layout, name, known[name], root)
            yield name, record, time.perf_counter() - start, layout


def write(path, only):
    "Keep the results of the entries that are not there yet, or of those that are asked for"
    found, known = json.loads(path.read_text()) if path.exists() else {}, entries()
    names = [n for n in known if (re.search(only, n) if only else n not in found)]
    print(f'{len(found)} entries in {path}, {len(names)} to make', flush=True)
    for name, record, seconds, _ in results(names, known):
        found[name] = record
        write_json(path, {n: found[n] for n in known if n in found})
        codes = ' '.join(str(c['code']) for c in record['commands'])
        print(f'{name}: exit {codes}, {seconds:.1f} s', flush=True)
    return 0


def compare(path, only):
    "Print every difference from the results that were kept; 1 if there is one"
    kept, known, differ = json.loads(path.read_text()), entries(), 0
    names = [n for n in known if not only or re.search(only, n)]
    for name in (n for n in names if n not in kept):
        print(f'{name}: not in {path}')
    there = [n for n in names if n in kept]
    for name, record, _, layout in results(there, known):
        lenient = layout.renamed and bool(family_of(known[name]) or name == 'methods-json')
        said = list(differences(kept[name], record, name, lenient))
        differ += bool(said)
        print('\n'.join(said) if said else f'{name}: same', flush=True)
    print(f'{len(there)} entries compared, {differ} differ')
    return int(differ > 0 or len(there) < len(names))


def main():
    "The command line of this tool"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('what', choices=['write', 'compare'])
    parser.add_argument('file', type=Path)
    parser.add_argument('--only', help='regular expression on the names of entries')
    args = parser.parse_args()
    return dict(write=write, compare=compare)[args.what](args.file.resolve(), args.only)


if __name__ == '__main__':
    sys.exit(main())
