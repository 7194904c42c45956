"""`python tools/cases.py [FOLDER] --out results/cases`: awkward inputs through every command.

FOLDER holds generators NN_name.py with a function `make(folder)`. Each input goes through `noise`,
`denoise` (every method), `evaluate`, and BIDS folders through `batch`; each row is judged by what
is expected below: right, refused (with the right reason), WRONG, or not judged (a network after a
few steps). OUT.csv holds the rows, OUT.json how they were made; the exit code is 1 if one is WRONG.
"""

import argparse
import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from mri_diffusion.core import InputError, MriDiffusionError, environment, write_json

NOT_JUDGED = 'identity', 'blur', 'floor'  # For comparison only: they may make a scan worse
# Imported once, so that the process of each item need not
WARM = (
    'accelerate torch._dynamo skimage.filters dipy.reconst.dti dipy.denoise.nlmeans '
    'dipy.denoise.localpca dipy.denoise.patch2self mri_diffusion.app.batch '
    'mri_diffusion.noise.describe mri_diffusion.judge.scores mri_diffusion.judge.tensors'
)
STEPS = 2  # Of every network: that it runs is seen, not how well


# ------------------------------------------------------------------------------ what is expected
@dataclass
class Case:
    "One input, and what must be said of it"

    file: str  # Below the folder of generated inputs: CASE/file
    what: str  # What it is
    sigma: float | None = None  # Truth, image units; None: not known
    truth: object = None  # File of the clean scan, or function of the scene's module
    shape: tuple | None = None  # As it must be read; None: as it is stored
    kind: str = 'magnitude'  # As `Scan.kind` says
    refused: str = ''  # Regular expression: every command must refuse it, for this reason
    refusals: dict = field(default_factory=dict)  # Command or method -> must refuse, for this
    may: dict = field(default_factory=dict)  # The same -> may refuse, for this
    says: str = ''  # Regular expression that a note of `noise` or `denoise` must match
    repeats: bool = False  # Some measurement is repeated
    learned: bool = False  # Also through the methods that learn
    worse: dict = field(default_factory=dict)  # Method -> factor by which its own error may rise
    tables: dict = field(default_factory=dict)  # bval, bvec, mask: files of the case


def _dwi(s0, b):
    "Truth of a series: function of the scene's module"
    return lambda S: S.dwi(s0(S), np.array(b), _directions(S, b))


def _directions(S, b):
    n0 = sum(k == 0 for k in b)
    return np.r_[np.zeros((n0, 3)), S.dirs(len(b) - n0)]


def _echoes(S, times, echoes):
    s = S.head((32, 32, 12))
    series = [[s * np.exp(-e / 40) * (1 + 0.01 * np.sin(t)) for e in echoes] for t in times]
    return np.squeeze(np.moveaxis(np.array(series), (0, 1), (-2, -1)))


def _zero_filled(S):
    s = S.head((64, 64, 12))
    k = np.pad(np.fft.fftshift(np.fft.fft2(s, axes=(0, 1)), (0, 1)), ((32, 32), (32, 32), (0, 0)))
    return 4 * abs(np.fft.ifft2(np.fft.ifftshift(k, (0, 1)), axes=(0, 1)))


ONE_16 = [0] + 16 * [1000]
PHASE = r'(?i)phase'
NOT_FINITE = r'not finite|NaN'
DIRECTION = r'(?i)direction'
FLAT = r'(?i)voxel|affine|thickness|header'
CASES = {
    '01_few_volumes': [
        Case('dwi.nii.gz', 'one b0 and 16 directions', 50, 'clean.nii.gz', learned=True),
        Case('d4.nii.gz', 'its first 4 volumes', 50, lambda S: _dwi(_h, ONE_16)(S)[..., :4]),
        Case('d2.nii.gz', 'its first 2 volumes', 50, lambda S: _dwi(_h, ONE_16)(S)[..., :2]),
    ],
    '02_t1_fourth_axis': [
        Case(
            't1.nii.gz',
            'a volume with a fourth axis of 1',
            40,
            'clean3.nii.gz',
            (48, 52, 30),
            learned=True,
        ),
        Case(
            't1.nii.gz',
            'the same, clean and mask with that axis',
            40,
            'clean4.nii.gz',
            (48, 52, 30),
            tables=dict(mask='mask4.nii.gz'),
        ),
    ],
    '03_cine_one_slice': [
        Case('cine.nii.gz', 'one slice in 20 phases of the heart', 40, 'clean.nii.gz'),
        Case(
            'one.nii.gz',
            'a volume of one slice',
            40,
            lambda S: S.head((96, 96, 1)),
            learned=True,
        ),
    ],
    '05_negative_values': [
        Case(
            'dwi.nii.gz',
            'magnitude series after spline interpolation',
            0,
            'clean.nii.gz',
            kind='rippled magnitude',
            repeats=True,
            learned=True,
        ),
        Case('b0.nii.gz', 'its b0', 0, 'b0clean.nii.gz', kind='rippled magnitude'),
    ],
    '06_real_channel': [
        Case(
            'dwi.nii.gz',
            'real channel after phase correction',
            50,
            'clean.nii.gz',
            kind='signed',
            repeats=True,
            learned=True,
            refusals=dict(ddm2='signed.*use r2r'),
        ),
    ],
    '07_seven_nans': [
        Case(
            'dwi.nii.gz',
            'series with seven NaN',
            50,
            lambda S: _dwi(_h, ONE_16)(S),
            refused=NOT_FINITE,
        ),
        Case('t1_nan.nii.gz', 'background all NaN', 50, lambda S: S.head(), refused=NOT_FINITE),
    ],
    '08_echoes_5d': [
        Case('te_5d.nii.gz', '10 times of 3 echoes, 5-D', 20, refused=r'5-D|axes'),
        Case(
            'te_t1.nii.gz',
            '1 time of 3 echoes, 5-D',
            20,
            lambda S: _echoes(S, [0], (12, 28, 44)),
            (32, 32, 12, 3),
            says=r'read as',
        ),
        Case(
            'te_e1.nii.gz',
            '10 times of 1 echo, 5-D',
            20,
            lambda S: _echoes(S, range(10), [12]),
            (32, 32, 12, 10),
            says=r'read as',
        ),
    ],
    '09_phase_images': [
        Case('phase.nii.gz', 'a phase image', refused=PHASE),
        Case('mag.nii.gz', 'its magnitude', 40, lambda S: S.head()),
    ],
    '10_trace_zero_vectors': [
        Case('prostate.nii.gz', 'three trace images, zero directions', 15, 'prostate_clean.nii.gz'),
        Case(
            'ivim.nii.gz',
            'twelve trace images, zero directions',
            15,
            'ivim_clean.nii.gz',
            learned=True,
            refusals=dict(ddm2='7 shells.*apart.*together'),
        ),
    ],
    '11_scaled_vectors': [
        Case(
            'dwi.nii.gz',
            'b = 1500 everywhere, lower shells by shorter vectors',
            50,
            'clean.nii.gz',
            learned=True,
            repeats=True,
            may=dict(ddm2=DIRECTION, n2n='repeat'),
        ),
    ],
    '14_units': [
        Case('mm.nii.gz', 'voxels of 0.08 mm', 50, 'mm_clean.nii.gz'),
        Case('micron.nii.gz', 'the same in micron', 50, 'micron_clean.nii.gz'),
        Case('meter.nii.gz', 'the same in metres', 50, 'meter_clean.nii.gz'),
        Case(
            'bold.nii.gz',
            'twelve equal volumes, TR in ms',
            30,
            lambda S: np.stack([S.head()] * 12, -1),
        ),
    ],
    '15_slope_fields': [
        Case('slope0.nii.gz', 'slope 0', 600, lambda S: S.head(level=2e4)),
        Case(
            'slope.nii.gz',
            'slope 0.05, intercept -3.5',
            30,
            lambda S: 0.05 * S.head(level=2e4) - 3.5,
            kind='',
        ),
        Case('big.nii.gz', 'big-endian', 600, lambda S: S.head(level=2e4)),
        Case(
            'nan.nii.gz',
            'slope NaN, also of the mask',
            600,
            lambda S: S.head(level=2e4),
            tables=dict(mask='nan_mask.nii.gz'),
        ),
        Case('float.nii.gz', 'float', 600, lambda S: S.head(level=2e4), learned=True),
    ],
    '16_mask_affine': [
        Case(
            't1.nii.gz',
            'mask whose qform is off by 5e-6',
            50,
            lambda S: S.head(),
            tables=dict(mask='mask_tiny.nii.gz'),
        ),
        Case(
            't1.nii.gz',
            'mask of 0.7',
            50,
            lambda S: S.head(),
            tables=dict(mask='mask_prob.nii.gz'),
        ),
        Case(
            't1.nii.gz',
            'mask on a flipped grid',
            refused=r'mask.*(grid|affine|place|position)',
            tables=dict(mask='mask_flip.nii.gz'),
        ),
        Case(
            't1.nii.gz',
            'mask 5 mm away',
            refused=r'mask.*(grid|affine|place|position)',
            tables=dict(mask='mask_moved.nii.gz'),
        ),
    ],
    '17_ivim_low_b': [
        Case(
            'ivim.nii.gz',
            'ten b-values up to 50',
            10,
            'clean.nii.gz',
            learned=True,
            refusals=dict(ddm2='7 shells.*apart.*together'),
        ),
    ],
    '18_asl_m0': [
        Case(
            'sub-01_asl.nii.gz',
            'M0 and 31 labels and controls',
            6,
            'clean.nii.gz',
            may=dict(ddm2='b-value'),
        ),
    ],
    '19_bold': [Case('bold.nii.gz', '60 volumes, blanked', 12, 'clean.nii.gz')],
    '20_t2_echoes': [
        Case('echoes.nii.gz', 'nine echoes', 20, 'clean.nii.gz', learned=True),
        Case('blanked.nii.gz', 'the same, blanked', 20, 'clean.nii.gz'),
    ],
    '21_flat_voxel': [Case('flat.nii.gz', 'voxels of 2 x 2 x 0 mm', refused=FLAT)],
    '22_bids_inheritance': [
        Case(
            'bids/sub-02/ses-b/dwi/sub-02_ses-b_dir-PA_run-1_dwi.nii.gz',
            'one b0 with its own table',
            50,
            lambda S: S.head((32, 36, 14)),
            learned=True,
        ),
    ],
    '23_swapped_tables': [
        Case(
            'x.nii.gz',
            'the directions given as b-values',
            refused=r'tab\.bvec.*(3|b-values|directions)',
            tables=dict(bval='tab.bvec'),
        ),
        Case(
            'three.nii.gz',
            'three volumes, directions in columns',
            50,
            lambda S: _dwi(_h, ONE_16)(S)[..., 1:4],
            tables=dict(bval='t3.bval', bvec='t3_columns.txt'),
        ),
    ],
    '24_zero_filled': [
        Case('zipped.nii.gz', 'zero-filled from 64 to 128', 40, _zero_filled),
        Case('native.nii.gz', 'as it was measured', 40, lambda S: S.head((64, 64, 12))),
    ],
    '25_scale_extremes': [
        Case(f'{name}_{k}.nii.gz', f'values of {k}', 0.04 * float(k), truth, **more)
        for k in ('1e-9', '1e-6', '1', '1e6')
        for name, truth, more in (
            ('t1', lambda S, k=k: float(k) * _unit(S), dict(learned=k == '1e-6')),
            (
                'dwi',
                lambda S, k=k: float(k) * _dwi(_unit, [0, 0] + 14 * [1000])(S),
                dict(repeats=True, worse=dict(patch2self=1.07)),  # alike at every scale
            ),
        )
    ],
    '26_dicom_vframe': [
        Case(
            'dti',
            'nine tiled frames of 20 slices',
            30,
            lambda S: _dwi(lambda S: S.head((64, 64, 20)), [0] + 8 * [1000])(S),
            (64, 64, 20, 9),
            may=dict(all=r'(?i)VFRAME|tile|mosaic'),
        ),
    ],
}


def _h(S):
    return S.head()


def _unit(S):
    return S.head((40, 44, 20), 1.0)


BATCHES = [  # Case, what, method, suffix, names of the scans that must be done
    ('02_t1_fourth_axis', 'T1w', 'nlmeans', None, ['sub-01_T1w']),
    ('09_phase_images', 'magnitude beside phase', 'mppca', None, ['sub-01_part-mag_dwi']),
    ('09_phase_images', 'the same, one volume', 'nlmeans', 'T2starw', ['sub-01_part-mag_T2starw']),
    (
        '22_bids_inheritance',
        'tables at the root, sbref and fmap',
        'nlmeans',
        None,
        [
            'sub-01_ses-a_dir-AP_run-1_dwi',
            'sub-01_ses-a_dir-AP_run-2_dwi',
            'sub-02_ses-b_dir-AP_run-1_dwi',
            'sub-02_ses-b_dir-PA_run-1_dwi',
        ],
    ),
    (
        '22_bids_inheritance',
        'the T1w of the same folder',
        'nlmeans',
        'T1w',
        ['sub-01_ses-a_run-1_T1w', 'sub-01_ses-a_run-2_T1w', 'sub-02_ses-b_run-1_T1w'],
    ),
]


# -------------------------------------------------------------------- one item, in a limited time
def limited(function, seconds):
    "What `function()` returns, within so many seconds, in a process of its own"
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)

    def call():
        with open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            theirs.send(_outcome(function))

    start = time.perf_counter()
    child = context.Process(target=call)
    child.start()
    theirs.close()
    found = dict(failed='died without a word')
    if not ours.poll(seconds):
        child.kill()
        found = dict(failed=f'no end within {seconds:g} s')
    else:
        with contextlib.suppress(EOFError):
            found = ours.recv()
    child.join()
    return found | dict(seconds=round(time.perf_counter() - start, 1))


def _outcome(function):
    "A dict of values; of an error its line, and whether it is one of the library's own"
    try:
        return function()
    except InputError as e:
        lines = str(e).strip().count('\n')
        return dict(failed=f'more than one line: {e}') if lines else dict(refusal=str(e))
    except MriDiffusionError as e:
        return dict(failed=str(e))
    except Exception as e:
        return dict(failed=f'unexpected {type(e).__name__}: {e}')


# --------------------------------------------------------------------------- what is asked of it
class Bench:
    "An input with its truth, ready for every command"

    def __init__(self, name, case, folder, scene, scratch, models):
        self.name, self.case, self.folder = name, case, folder / name
        self.path, self.scratch, self.models = self.folder / case.file, scratch, models
        self.files = {k: self.folder / v for k, v in case.tables.items()}
        self.truth = self._truth(scene)
        self.sigma = case.sigma
        if case.sigma == 0:  # after interpolation: of the difference, where there is signal
            noisy = nib.load(self.path).get_fdata()
            inside = self.truth > 0.5 * self.truth.max()
            away = noisy[inside] - self.truth[inside]
            self.sigma = 1.4826 * np.median(abs(away - np.median(away)))

    def _truth(self, scene):
        if self.case.truth is None:
            return None
        if isinstance(self.case.truth, str):
            x = nib.load(self.folder / self.case.truth).get_fdata()
        else:
            x = self.case.truth(scene)
        return x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x

    def has_table(self):
        beside = self.path.with_name(self.path.name.replace('.nii.gz', '.bval'))
        return 'bval' in self.files or beside.exists()

    def noise(self):
        from mri_diffusion.app.jobs import scan_noise
        from mri_diffusion.scans.nifti import Scan

        files = {k: v for k, v in self.files.items() if k != 'bvec'}
        scan = Scan.load(self.path, **self.files)
        found = scan_noise(self.path, **files)
        interval = [found['low'], found['high']] if found.get('low') else None
        return dict(
            sigma=found['sigma'],
            kind=getattr(scan, 'kind', None),
            shape=scan.shape,
            interval=interval,
            said=found['notes'],
        )

    def denoise(self, method, keep=None):
        "Scores of a method against the truth; its output stays at `keep`"
        from mri_diffusion.app.jobs import denoise_scan
        from mri_diffusion.methods.registry import get_method

        m, path, truth, files = get_method(method), self.path, self.truth, dict(self.files)
        if m.learns and not files:
            path, truth = self._middle(path, truth)
        tiny = m.presets['tiny']
        steps = {k: STEPS for k in tiny if re.fullmatch(r'steps\d*', k)} if m.learns else {}
        model = self.models / method if m.needs == 'pairs' else None
        out = keep or self.scratch / f'{method}.nii.gz'
        how = dict(preset='tiny', settings=steps) if model is None else {}
        result = denoise_scan(path, out, method, model, device='cpu', force=True, **files, **how)
        stored, noisy = nib.load(out), result.noisy.data
        x = _without_ones(stored.get_fdata())
        found = dict(sigma=result.level, shape=x.shape, said=result.meta['notes'])
        if not np.isfinite(x).all():
            raise AssertionError('values that are not finite')
        if method == 'identity' and not np.allclose(x, _without_ones(noisy)):
            raise AssertionError('identity changed the scan')
        if truth is not None and truth.shape == x.shape:
            found |= _errors(x, _without_ones(noisy), truth, self.sigma)
        return found

    def _middle(self, path, truth):
        "The middle ten slices: a network after a few steps is run, not judged"
        if not str(path).endswith('.nii.gz'):
            return path, truth
        image = nib.load(path)
        n = image.shape[2]
        if n <= 12:
            return path, truth
        cut = slice(n // 2 - 5, n // 2 + 5)
        small = self.scratch / f'cut_{path.name}'
        data = np.asarray(image.dataobj[:, :, cut], np.float32)
        nib.save(nib.Nifti1Image(data, image.affine), small)
        for end in ('.bval', '.bvec'):
            table = path.parent / path.name.replace('.nii.gz', end)
            if table.exists():
                small.with_name(small.name.replace('.nii.gz', end)).write_text(table.read_text())
        return small, None if truth is None else truth[:, :, cut]

    def evaluate(self, method):
        "PSNR as `evaluate` says it and as it is; error of MD before and after"
        from mri_diffusion.app.jobs import evaluate_scan

        out = self.scratch / 'judged.nii.gz'
        if not out.exists():
            self.denoise(method, out)
        clean = self.case.truth
        clean = self.folder / clean if isinstance(clean, str) else self._clean_file(out)
        mask = {k: v for k, v in self.files.items() if k == 'mask'}
        noisy = None if self.path.is_dir() else self.path
        found = evaluate_scan(out, clean, noisy=noisy, **mask)
        x = _without_ones(nib.load(out).get_fdata())
        rmse = np.sqrt(np.mean((x - self.truth) ** 2))
        psnr = 20 * np.log10(found['data_range'] / rmse)
        tensor = found.get('tensor', {})
        md = [tensor[k]['MD'] for k in ('noisy', 'denoised')] if 'denoised' in tensor else None
        said = [tensor['none']] if 'none' in tensor else []
        return dict(psnr=found['psnr'], psnr_true=psnr, md=md, shape=x.shape, said=said)

    def _clean_file(self, like):
        path = self.scratch / 'clean.nii.gz'
        nib.save(nib.Nifti1Image(self.truth.astype(np.float32), nib.load(like).affine), path)
        return path


def _without_ones(x):
    "Without axes of one beyond the third: an output keeps those of its input"
    return x.reshape(x.shape[:3] + tuple(n for n in x.shape[3:] if n != 1))


def _errors(x, noisy, truth, sigma):
    "RMSE in the object; mean error where the signal is weak, in units of sigma"
    inside = truth > 0.02 * truth.max()
    rmse = [float(np.sqrt(np.mean((v - truth)[inside] ** 2))) for v in (noisy, x)]
    scale = float(np.sqrt(np.mean(truth[inside] ** 2)))
    found = dict(before=rmse[0], after=rmse[1], scale=scale)
    weak = inside & (truth < 2 * (sigma or 0))
    size = (5, 5, 5, 1)[: truth.ndim]  # and away from brighter tissue, which smoothing lets in
    deep = (truth >= 0) & (ndimage.maximum_filter(truth, size) < 2 * (sigma or 0))
    deep &= (truth > 0) if truth.ndim == 3 else (truth[..., :1] > 0)
    for name, where in dict(weak=weak, deep=deep).items():
        if where.sum() > 200:
            found[name] = [float(np.mean((v - truth)[where])) / sigma for v in (noisy, x)]
    return found


# ------------------------------------------------------------------------------------ the verdict
def _refusal_wanted(bench, command, method):
    "Regular expression that this command must be refused with, '' if it must not; that it may"
    c, may = bench.case, bench.case.may
    allowed = '|'.join(v for k, v in may.items() if k in (command, method and method.name, 'all'))
    wanted = c.refused or c.refusals.get(command) or (method and c.refusals.get(method.name)) or ''
    if wanted or method is None:
        return wanted, allowed
    ndim = len(c.shape) if c.shape else 0 if bench.truth is None else bench.truth.ndim
    if ndim and ndim not in method.dims:
        return r'it takes|takes (volumes|series)', allowed
    if method.name in ('n2n', 'ddm2') and not bench.has_table():
        return 'no b-values', allowed
    if method.name == 'n2n' and not c.repeats:
        return 'repeat', allowed
    few = ndim == 4 and bench.truth.shape[-1] < 10
    if few and method.dims == (4,):
        allowed += '|' * bool(allowed) + r'volumes'
    return '', allowed


def judge(bench, command, method, found):
    "right, refused, WRONG or not judged; why"
    wanted, allowed = _refusal_wanted(bench, command, method)
    if 'failed' in found:
        return 'WRONG', found['failed']
    if 'refusal' in found:
        said = found['refusal']
        pattern = '|'.join(p for p in (wanted, allowed) if p)
        good = bool(pattern) and re.search(pattern, said)
        return ('refused' if good else 'WRONG'), said
    if wanted:
        return 'WRONG', f'was not refused ({wanted})'
    shape = bench.case.shape or (None if bench.truth is None else bench.truth.shape)
    if shape and len(found['shape']) != len(shape):
        return 'WRONG', f'read as {found["shape"]}, not {shape}'
    says = bench.case.says
    if says and command != 'evaluate' and not re.search(says, ' '.join(found['said'])):
        return 'WRONG', f'no note ({says})'
    return dict(noise=_judge_noise, denoise=_judge_denoise, evaluate=_judge_evaluate)[command](
        bench, method, found
    )


def _judge_noise(bench, method, found):
    kind = found['kind']
    if bench.case.kind and kind and kind != bench.case.kind:
        return 'WRONG', f'taken as {kind}'
    if bench.sigma is None:
        return 'right', ''
    ratio, interval = found['sigma'] / bench.sigma, found['interval']
    near = abs(np.log(ratio)) < np.log(1.15)
    if interval and not interval[0] <= bench.sigma <= interval[1]:
        return 'WRONG', f'sigma {ratio:.2g} of the truth, which its interval does not hold'
    if interval and interval[1] > 2 * interval[0] and not found['said']:
        return 'WRONG', 'an interval of more than a factor of two, without a note'
    if not near and not interval:
        return 'WRONG', f'sigma is {ratio:.2g} of the truth'
    return 'right', '' if near else f'sigma is {ratio:.2g} of the truth, which its interval holds'


def _judge_denoise(bench, method, found):
    "The error must not rise, nor the mean of the weak signal move away"
    if 'after' not in found:
        return 'not judged', 'no truth on this grid'
    if method.learns:
        wild = found['after'] > 1.5 * found['scale']
        return ('WRONG', 'far from the scan') if wild else ('not judged', f'{STEPS} steps only')
    if method.name in NOT_JUDGED:
        return 'not judged', 'for comparison only'
    if found['after'] > 1.02 * found['before']:
        own = found['after'] <= bench.case.worse.get(method.name, 0) * found['before']
        return ('not judged', 'the method is at fault') if own else ('WRONG', 'the error rises')
    signed = bench.case.kind == 'signed'
    for name, limit in dict(weak=0.3 if signed else 0.5, deep=0.15 if signed else 0.5).items():
        was, now = found.get(name, (0, 0))
        if abs(now) > max(abs(was) + 0.05, limit):
            return 'WRONG', f'weak signal is off by {now:+.2f} sigma, before by {was:+.2f}'
    if found['after'] > 0.98 * found['before']:
        return 'right', 'nothing is gained'
    return 'right', ''


def _judge_evaluate(bench, method, found):
    if bench.files.get('mask') is None and abs(found['psnr'] - found['psnr_true']) > 0.05:
        return 'WRONG', f'PSNR {found["psnr"]:.2f}, by hand {found["psnr_true"]:.2f}'
    if found['md'] and found['md'][1] > 1.1 * found['md'][0]:
        return 'WRONG', f'error of MD {found["md"][0]:.3g} -> {found["md"][1]:.3g}'
    return 'right', '; '.join(found['said'])


# ---------------------------------------------------------------------------------------- the run
def run_case(bench, limit, tell, only=()):
    "Rows of one input"
    from mri_diffusion.methods.registry import methods

    def row(command, method, function):
        found = limited(function, limit)
        verdict, why = judge(bench, command, method, found)
        of = dict(case=bench.name, input=bench.case.file, what=bench.case.what, command=command)
        weak = found.get('weak') or (None, None)
        interval = found.get('interval') or (None, None)
        numbers = dict(
            method=method and method.name,
            kind=found.get('kind'),
            sigma=found.get('sigma'),
            sigma_true=bench.sigma,
            low=interval[0],
            high=interval[1],
            rmse_before=found.get('before'),
            rmse_after=found.get('after'),
            weak_before=weak[0],
            weak_after=weak[1],
        )
        notes = '; '.join(found.get('said', ()))
        rows.append(of | numbers | dict(verdict=verdict, why=why, notes=notes))
        rows[-1]['seconds'] = found['seconds']
        tell(rows[-1])
        return found

    rows, judged = [], None
    row('noise', None, bench.noise)
    for m in methods().values():
        if (m.learns and not bench.case.learned) or (only and m.name not in only):
            continue
        found = row('denoise', m, lambda m=m: bench.denoise(m.name))
        if not m.learns and m.name not in NOT_JUDGED and 'after' in found:
            judged = judged or m.name
    if bench.truth is not None and not bench.case.refused:
        name = judged or 'identity'
        row('evaluate', None, lambda: bench.evaluate(name))
    return rows


def run_batch(name, what, method, suffix, wanted, folder, scratch, limit, tell):
    "A row of a BIDS folder"
    from mri_diffusion.app.batch import batch_scans

    def go():
        out = scratch / 'batch'
        rows = batch_scans(folder / name / 'bids', out, 'participant', method, suffix=suffix)
        return dict(
            scans={r['scan'].split('.')[0]: (r['status'], r['message']) for r in rows},
            written=[p.name for p in out.rglob('*.nii.gz')],
        )

    found = limited(go, 4 * limit)
    verdict, why = 'right', f'{len(wanted)} scans'
    if 'scans' not in found:
        verdict, why = 'WRONG', found.get('failed') or found.get('refusal')
    else:
        scans = found['scans']
        bad = [f'{k}: {m or s}' for k, (s, m) in scans.items() if s != 'done']
        strange = sorted(set(scans) - set(wanted))
        missing = sorted(set(wanted) - set(scans))
        said = [*bad, *(f'{s} was taken' for s in strange), *(f'{s} was not' for s in missing)]
        if said or len(found['written']) < len(wanted):
            verdict, why = 'WRONG', '; '.join(said) or 'a file is missing'
    of = dict(case=name, input='bids', what=what, command='batch', method=method)
    tell(of | dict(verdict=verdict, why=why))
    return of | dict(verdict=verdict, why=why, seconds=found['seconds'])


def make_inputs(generators, folder):
    "Run the generators; the scene's module, whose objects are the truth"
    sys.path.insert(0, str(generators))
    names = sorted(p.stem for p in generators.glob('[0-9]*.py'))
    with contextlib.redirect_stdout(None):
        for name in names:
            _module(generators / f'{name}.py').make(str(folder / name))
    return names, _module(generators / '_scene.py')


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_pairs(scene, folder):
    "A model of each method of pairs, after a few steps"
    from mri_diffusion.app.jobs import train_method
    from mri_diffusion.methods.registry import methods

    clean = folder / 'clean.nii.gz'
    nib.save(nib.Nifti1Image(scene.head().astype(np.float32), np.diag([2.0, 2, 2, 1])), clean)
    for m in methods().values():
        if m.needs == 'pairs':
            train_method(m.name, [], folder / m.name, [clean], 'tiny', STEPS, device='cpu')
    return {}


def _tell(row):
    what = f'{row["case"]} {Path(row["input"]).name} {row["command"]} {row["method"] or ""}'
    print(f'{row["verdict"]:10} {what}: {row["why"]}'[:240], flush=True)


def _write(rows, out, command, generators, seconds):
    from results import processor

    out.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    for k in (
        'sigma',
        'sigma_true',
        'low',
        'high',
        'rmse_before',
        'rmse_after',
        'weak_before',
        'weak_after',
    ):
        table[k] = [None if pd.isna(v) else float(f'{v:.4g}') for v in table[k]]
    table = table.replace({str(generators): '...'}, regex=False)
    table.to_csv(out.with_suffix('.csv'), index=False)
    counts = table.verdict.value_counts().to_dict()
    facts = dict(command=command, steps=STEPS, seconds=round(seconds), verdicts=counts)
    write_json(
        out.with_suffix('.json'), facts | dict(environment=environment(), processor=processor())
    )
    print(', '.join(f'{n} {k}' for k, n in counts.items()), f'-> {out.with_suffix(".csv")}')
    return counts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('generators', nargs='?', type=Path, default=Path('../shared/cases'))
    parser.add_argument('--out', type=Path, required=True, help='OUT.csv and OUT.json')
    parser.add_argument('--limit', type=float, default=60.0, help='seconds an item')
    parser.add_argument('--only', nargs='*', default=(), help='cases whose names begin so')
    parser.add_argument('--methods', nargs='*', default=(), help='only these')
    a = parser.parse_args(argv)
    if not a.generators.is_dir():
        print(f'{a.generators}: no generators of cases; nothing done')
        return 0
    os.environ['MRI_DIFFUSION_QUIET'] = '1'
    warnings.simplefilter('ignore')
    import torch

    from mri_diffusion.methods.registry import methods

    torch.set_num_threads(1)
    methods()
    for name in WARM.split():
        importlib.import_module(name)
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix='cases-') as place:
        place = Path(place)
        names, scene = make_inputs(a.generators.resolve(), place)
        models = place / 'models'
        models.mkdir()
        said = {} if a.methods else limited(lambda: train_pairs(scene, models), 4 * a.limit)
        if set(said) - {'seconds'}:
            print(f'models of pairs: {said}')
        wanted = [n for n in names if not a.only or n.startswith(tuple(a.only))]
        for name in wanted:
            for case in CASES.get(name, ()):
                with tempfile.TemporaryDirectory(dir=place) as scratch:
                    bench = Bench(name, case, place, scene, Path(scratch), models)
                    rows += run_case(bench, a.limit, _tell, a.methods)
            for of, *what in BATCHES:
                if of == name:
                    with tempfile.TemporaryDirectory(dir=place) as scratch:
                        row = run_batch(of, *what, place, Path(scratch), a.limit, _tell)
                        rows.append(row)
        rows = [_without(r, place) for r in rows]
    missing = [n for n in wanted if n not in CASES]
    for n in missing:
        print(f'{n}: nothing is expected of it yet; write it into CASES')
    words = ['python tools/cases.py', *map(str, (argv or sys.argv[1:]))]
    counts = _write(rows, a.out, ' '.join(words), a.generators, time.perf_counter() - start)
    return int(counts.get('WRONG', 0) > 0)


def _without(row, place):
    "A row without the temporary folder in its words"
    clean = lambda v: re.sub(rf'{re.escape(str(place))}/(tmp\w+/)?', '', v)
    return {k: clean(v) if isinstance(v, str) else v for k, v in row.items()}


if __name__ == '__main__':
    sys.exit(main())
