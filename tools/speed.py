"""Seconds and quality of the denoisers of a diffusion series, side by side: `speed.py DWI_FOLDER`.

Every run is a process of its own with one thread; the denoisers take turns, round by round, on
the same noisy series and the same mask, and none is told the noise level. A round has a seed of
its own for the noise. The truth is that of `series_table.py`. Beside the methods of this library:
DIPY's MP-PCA, MRtrix3's `dwidenoise` where it is on the PATH (its licence allows no commercial
use: it is run, never needed), and the series method of an older build where its checkout with its
own `.venv` is given (`--old`). What is absent is named. The table is written after every run, and
the same command goes on where it was interrupted.
"""

import argparse
import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import pandas as pd
from project import root
from series_table import CROP, clean_series

from mri_diffusion.app.bench import summary
from mri_diffusion.core import InputError, environment, read_json, temporary_folder, write_json
from mri_diffusion.judge.truth import make_truth, score_series
from mri_diffusion.noise.rician_bias import correct_bias
from mri_diffusion.noise.sigma import channel_sigma
from mri_diffusion.scans.nifti import Scan
from results import processor

ONE = root / 'tools/speed_one.py'
OURS = ('unet_pca', 'wiener', 'r2r')
DIPY, MRTRIX, OLD = 'mppca (DIPY)', 'dwidenoise (MRtrix)', 'r2r, old build'
THREADS = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
NOTE = (
    'seconds: of the denoising, without imports and files (of dwidenoise, whose inside cannot be '
    'timed: of the command); core_seconds: the same as time of a core, which other jobs on the '
    'machine disturb less; whole_seconds: from the start of the process to its end; memory_mib: '
    'largest VmHWM of the process; psnr: dB, weighted volumes in the mask; bias: over sigma; '
    'MP-PCA and dwidenoise are scored with the Rician bias removed by their own noise maps, which '
    'is not timed'
)


def contenders(old=None, old_method='ddm2'):
    "Name -> words of its command; name -> why it is absent"
    python = lambda at, method: [str(at), str(ONE), method, '{noisy}', '{mask}', '{out}']
    found = {name: python(sys.executable, name) for name in OURS}
    found[DIPY] = python(sys.executable, 'dipy:mppca')
    absent, theirs = {}, Path(old or '') / '.venv/bin/python'
    if old is None:
        absent[OLD] = 'no checkout given (--old)'
    elif not theirs.is_file():
        absent[OLD] = f'{old} has no .venv/bin/python; run make setup there'
    else:
        found[OLD] = python(theirs.absolute(), old_method)
    dwidenoise = shutil.which('dwidenoise')
    if dwidenoise is None:
        absent[MRTRIX] = 'dwidenoise is not on the PATH (Debian, Ubuntu: apt install mrtrix3)'
    else:
        how = '-mask {mask} -noise {level} -nthreads 1 -quiet -force {noisy} {out}'
        found[MRTRIX] = [dwidenoise, *how.split()]
    return found, absent


def answer(*words):
    "First line that a command prints; '' if it prints none, or is not there"
    if shutil.which(words[0]) is None:
        return ''
    said = subprocess.run(words, capture_output=True, text=True).stdout
    return said.partition('\n')[0].strip(' =')


def commit(checkout):
    "Short name of what is checked out"
    return answer('git', '-C', str(checkout), 'rev-parse', '--short', 'HEAD') or 'not known'


def versions(found, old):
    "What runs, by name"
    said = {name: f'commit {commit(root)}' for name in OURS if name in found}
    if DIPY in found:
        said[DIPY] = f'dipy {version("dipy")}, patch radius 2'
    if OLD in found:
        said[OLD] = (
            f'commit {commit(old)}, its method {found[OLD][2]}, in an environment of its own'
        )
    if MRTRIX in found:
        said[MRTRIX] = answer(found[MRTRIX][0], '-version')
    return said


def _watch(pid, peak, ended):
    "Follow the memory of a process: `peak[0]` is its VmHWM, KiB"
    status = Path(f'/proc/{pid}/status')
    while not ended.is_set():
        with contextlib.suppress(OSError):
            high = [x.split()[1] for x in status.read_text().splitlines() if x.startswith('VmHWM')]
            peak[0] = max(peak[0], *map(int, high), 0)
        ended.wait(0.02)


@contextlib.contextmanager
def held(lock):
    "Hold a file while a run is timed, so that jobs that take it (flock) wait; None: hold nothing"
    if lock is None:
        yield
        return
    with open(lock, 'a') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def timed(words, lock=None):
    "One process: its seconds and memory; it must end well"
    peak, ended = [0], threading.Event()
    with held(lock):
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | THREADS | dict(MRI_DIFFUSION_QUIET='1'),
        )
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, ended))
        watcher.start()
        try:
            out, err = process.communicate()
            whole = time.perf_counter() - start
        finally:
            process.kill()  # Where the tool is interrupted; one that has ended stays as it is
            process.wait()
            ended.set()
            watcher.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        last = (err.strip().splitlines() or ['no message'])[-1]
        raise InputError(f'{Path(words[0]).name} {words[2]}: code {process.returncode}: {last}')
    core = sum(getattr(after, k) - getattr(used, k) for k in ('ru_utime', 'ru_stime'))
    inside = dict(seconds=whole, core_seconds=core)  # Of a command that does not tell its own
    inside |= json.loads(out.splitlines()[-1]) if out.strip() else {}
    return inside | dict(whole_seconds=whole, memory_mib=peak[0] / 1024)


def without_bias(denoised, level, noisy, mask):
    "A result with the Rician bias taken out by the noise map that came with it, as for `mppca`"
    sigma = channel_sigma(noisy.mean(-1), np.nan_to_num(level), 1)[..., None]
    found = correct_bias(denoised.astype(float), np.broadcast_to(sigma, denoised.shape), 1, 'koay')
    inside = mask[..., None] & (sigma > 0) & np.isfinite(found)
    return np.where(inside, found, noisy).astype(np.float32)


def run(name, words, truth, folder, lock=None):
    "A row of the table"
    paths = {k: folder / f'{k}.nii' for k in ('noisy', 'mask', 'out')}
    paths['level'] = folder / 'level_out.nii'
    for k in ('out', 'level'):
        paths[k].unlink(missing_ok=True)
    row = timed([w.format(**paths) for w in words], lock)
    denoised = np.asarray(nib.load(paths['out']).dataobj, np.float32)
    if paths['level'].exists():
        level = np.asarray(nib.load(paths['level']).dataobj, float)
        denoised = without_bias(denoised, level, truth.noisy.data, truth.mask)
    return dict(round=truth.seed, method=name) | row | score_series(denoised, truth)


def _spread(values, what):
    "Median and range under names"
    low, high = min(values), max(values)
    return {what: median(values), f'{what}_low': low, f'{what}_high': high}


def _ratios(row, rows, name, of):
    "Ratios to the references within a round: median and range of seconds and of core seconds"
    for column, start in (('seconds', ''), ('core_seconds', 'core_')):
        each = {m: t.set_index('round')[column] for m, t in rows.groupby('method')}
        for what, other in of.items():
            if other in each:
                both = each[name].index.intersection(each[other].index)
                found = summary(*(each[m][both].tolist() for m in (name, other)))
                names = ('ratio', 'ratio_low', 'ratio_high')
                row |= {f'{start}{what}{k[5:]}': found[k] for k in names}


def summarise(rows):
    "One row a method: median and range of seconds, ratios within a round, mean scores, MiB"
    of, table = dict(of_mppca=DIPY, of_dwidenoise=MRTRIX, of_old=OLD), []
    for name, t in rows.groupby('method', sort=False):
        row = dict(method=name, rounds=len(t)) | _spread(t.seconds, 'seconds')
        row |= _spread(t.core_seconds, 'core') | _spread(t.whole_seconds, 'whole')
        _ratios(row, rows, name, of)
        table.append(row | dict(t[['psnr', 'fa_error']].mean(), memory_mib=t.memory_mib.max()))
    return pd.DataFrame(table).sort_values('core', ignore_index=True)


def asked(words):
    "The options"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument('folder', help='holds dwi.nii.gz with its .bval and .bvec')
    p.add_argument('--out', type=Path, default=Path('results/speed.csv'))
    p.add_argument('--old', help='checkout of an older build with its .venv')
    p.add_argument('--old-method', default='ddm2', help='what that build calls its method')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--methods', help='names, separated by semicolons; all')
    p.add_argument('--few', default='', help='NAME=ROUNDS: a slow one, in its first rounds only')
    p.add_argument('--crop', default=CROP)
    p.add_argument('--snr', type=float, default=15)
    p.add_argument('--lock', help='file held during each timed run (flock), so that others wait')
    return p.parse_args(words)


def plan(how):
    "Name -> words of what will run, and in how many rounds; absent ones are named"
    found, absent = contenders(how.old, how.old_method)
    names = how.methods.split(';') if how.methods else [*found, *absent]
    unknown = [n for n in names if n not in found | absent]
    if unknown:
        known = '; '.join(found | absent)
        raise InputError(f'method {unknown[0]!r}: unknown; choose from {known}')
    for name, why in absent.items():
        if name in names:
            print(f'{name}: absent: {why}')
    fewer, _, n = how.few.partition('=')
    if how.few and not (fewer in found and n.isdigit()):
        raise InputError(f'few {how.few!r}: give NAME=ROUNDS of what runs, as in r2r=3')
    rounds = {k: int(n) if k == fewer else how.rounds for k in found if k in names}
    return {k: found[k] for k in rounds}, rounds


def command(how):
    "The command, without the folders of this machine"
    more = ' --old CHECKOUT' * bool(how.old) + f' --few {how.few}' * bool(how.few)
    return f'python tools/speed.py FOLDER --rounds {how.rounds}{more}'


def known_rows(how, settings):
    "Rows of an interrupted run of the same settings"
    record = how.out.with_suffix('.json')
    if not (how.out.exists() and record.exists()):
        return []
    if read_json(record).get('settings') != settings:
        raise InputError(f'{how.out}: made with other settings; give another --out, or delete it')
    return pd.read_csv(how.out).to_dict('records')


def keep(how, rows, settings, about):
    "Write the rows, and beside them how they were made and what they say"
    table = pd.DataFrame(rows).round(5)
    table.to_csv(how.out, index=False)
    facts = dict(settings=settings, note=NOTE) | about
    facts['summary'] = summarise(table).round(5).to_dict('records')
    write_json(how.out.with_suffix('.json'), facts)


def main(*words):
    "Run the rounds, print and keep the table"
    how = asked(words or None)
    found, rounds = plan(how)
    settings = dict(crop=how.crop, snr=how.snr, threads=1, series=Path(how.folder).name)
    rows = known_rows(how, settings)
    about = dict(command=command(how), versions=versions(found, how.old), processor=processor())
    about |= dict(environment=environment(), rounds=rounds)
    done = {(r['round'], r['method']) for r in rows}
    clean = clean_series(how.folder, how.crop)
    with temporary_folder('speed') as folder:
        for seed in range(how.rounds):
            todo = [m for m in found if seed < rounds[m] and (seed, m) not in done]
            if not todo:
                continue
            truth = make_truth(clean, how.snr, seed)
            n = truth.noisy
            Scan.from_array(n.data, n.affine, n.bvals, n.bvecs).save(folder / 'noisy.nii', True)
            mask = nib.Nifti1Image(truth.mask.astype(np.uint8), n.affine)
            mask.to_filename(folder / 'mask.nii')
            for name in todo:
                rows.append(run(name, found[name], truth, folder, how.lock))
                keep(how, rows, settings, about)
                print({k: round(v, 3) if k != 'method' else v for k, v in rows[-1].items()})
    print(summarise(pd.DataFrame(rows)).round(3).to_string(index=False))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # What runs is ended, too
    try:
        main()
    except InputError as e:
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)
