"""Peak memory of every command and method: `python tools/memory.py OUT.csv [SIZE ...]`.

Each command runs as a user runs it, in a process of its own, on a head that the phantom gives. Its
peak is what the system counted (`ru_maxrss`); this process stays small, since a child begins with
the count of its parent. `beyond_MiB` is the peak less three times the scan as float32: Python, torch,
imports, one window of a network. Rows are written as they come; those that OUT.csv holds are not run
again, unless `--again`. An `hcp` scan takes half an hour of a core and 12 GiB a row.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = dict(
    series=(128, 128, 60, 33),
    hcp=(145, 174, 145, 288),
    volume=(256, 256, 256),
)
COLUMNS = 'size shape command method preset MiB scan_MiB beyond_MiB seconds said'.split()


def make(folder, shape):
    "A noisy scan and its clean partner, int16 as scanners write it, with a gradient table"
    code = Path(__file__).with_name('memory_scan.py')
    subprocess.run([sys.executable, code, folder, *map(str, shape)], check=True)


def commands(size):
    "(command, method, preset) -> what follows `mri-diffusion`"
    series = len(SIZES[size]) == 4
    scan, clean, both = 'noisy.nii', 'clean.nii', ['--residual', 'res.nii', '--report', 'r.html']
    yield ('noise', '', ''), ['noise', scan]
    yield ('simulate', '', ''), ['simulate', clean, 'out.nii', '--snr', '20']
    yield ('evaluate', '', ''), ['evaluate', scan, '--clean', clean, '--mask', 'mask.nii']
    default = ['denoise', scan, 'out.nii', *both]
    yield ('denoise, residual, report', 'default', ''), default
    own = 'unet_pca wiener mppca patch2self' if series else 'unet diffusion nlmeans'
    for method in f'{own} blur identity'.split():
        told = ['--sigma', '30'] if method == 'nlmeans' else []
        yield ('denoise', method, ''), ['denoise', scan, 'out.nii', '--method', method, *told]
    learn = 'r2r ddm2' if series else 'diffdenoise noise2score'
    for method in learn.split():
        how = ['--method', method, '--preset', 'tiny']
        yield ('denoise', method, 'tiny'), ['denoise', scan, 'out.nii', *how]


def measure(arguments, folder):
    "Peak in MiB, seconds, and the last line of a command that failed"
    command = [Path(sys.executable).with_name('mri-diffusion'), *arguments, '--force', '-q']
    start, told = time.perf_counter(), dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    with open(folder / 'stderr', 'w') as err:
        how = dict(cwd=folder, env=told, stdout=subprocess.DEVNULL, stderr=err)
        child = subprocess.Popen(command, **how)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    said = (folder / 'stderr').read_text().strip().splitlines() if child.returncode else []
    said = said[-1] if said else f'exit code {child.returncode}' * (child.returncode != 0)
    unit = 2**20 if sys.platform == 'darwin' else 2**10
    return used.ru_maxrss / unit, time.perf_counter() - start, said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('sizes', nargs='*', default=['series', 'volume'], metavar='SIZE')
    parser.add_argument('--only', nargs='*', help='methods or commands', default=None)
    parser.add_argument('--again', action='store_true', help='run also what OUT.csv holds')
    asked = parser.parse_args()
    rows = []
    if asked.out.exists():
        rows = list(csv.DictReader(asked.out.open()))
    for size in asked.sizes:
        run(asked, rows, size)
    write(asked.out, rows)
    write_facts(asked.out)


def run(asked, rows, size):
    "Rows of one size"
    held = {(r['size'], r['command'], r['method']) for r in rows}
    want = [(k, a) for k, a in commands(size) if not asked.only or {*k[:2]} & {*asked.only}]
    if not asked.again:
        want = [(k, a) for k, a in want if (size, *k[:2]) not in held]
    if not want:
        return
    with tempfile.TemporaryDirectory() as folder:
        make(folder, SIZES[size])
        for (command, method, preset), arguments in want:
            peak, seconds, said = measure(arguments, Path(folder))
            row = dict(size=size, shape='x'.join(map(str, SIZES[size])), command=command)
            row |= dict(method=method, preset=preset, MiB=round(peak), seconds=round(seconds, 1))
            rows[:] = [
                r for r in rows if (r['size'], r['command'], r['method']) != (size, command, method)
            ]
            rows.append(row | dict(said=said))
            write(asked.out, rows)
            print(*rows[-1].values(), flush=True)


FACTS = """
import json, sys
from mri_diffusion.core import environment, write_json
about = dict(seed=0, threads=1, environment=environment())
facts = dict(command=sys.argv[2], **about)
write_json(sys.argv[1], facts)
"""


def write_facts(out):
    "How the table was made, by a process of its own, since this one stays small"
    command = ' '.join(['python tools/memory.py', str(out), *sys.argv[2:]])
    run = [sys.executable, '-c', FACTS, out.with_suffix('.json'), command]
    subprocess.run(run, check=True)


def write(out, rows):
    "The rows, each with what it takes beside three times the scan"
    for r in rows:
        scan = 4 * math.prod(SIZES[r['size']]) / 2**20
        r |= dict(scan_MiB=round(scan), beyond_MiB=round(float(r['MiB']) - 3 * scan))
    with out.open('w', newline='') as f:
        table = csv.DictWriter(f, COLUMNS, restval='', lineterminator='\n')
        table.writeheader()
        table.writerows(rows)


if __name__ == '__main__':
    main()
