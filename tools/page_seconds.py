"""`python tools/page_seconds.py [PAGES]`: how long each page runs on one core.

Without PAGES it runs those that have no number yet, or whose code is not that of the number; `--check`
lists them. The numbers are seconds of one processor (imports too), so a busy machine does not change
them much. They go to `results/page_seconds.json`, and the site prints them (`tools/site_pages.py`).
`--log FILE` takes them from what `make test` (`tools/test_pages.py`) has printed instead.
"""

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

from project import notebooks, root

KEPT = root / 'results/page_seconds.json'
STEPS = 1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300


def fingerprint(nb):
    "What of a page decides its run time: its code, without directives and empty lines"
    code = '\n'.join(c.source for c in nb.cells if c.cell_type == 'code')
    lines = [x for x in code.splitlines() if x.strip() and not x.startswith('#|')]
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12]


def kept(base=root):
    "Page, relative to nbs -> dict of `seconds` and `code` (its fingerprint)"
    path = base / 'results/page_seconds.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}


def stale(known=None):
    "Pages without a number, or with the number of other code"
    known = kept() if known is None else known
    return [
        str(p)
        for p, nb in notebooks().items()
        if known.get(str(p), {}).get('code') != fingerprint(nb)
    ]


def about(seconds):
    "The nearest round number: a reader needs no more"
    return min(STEPS, key=lambda s: abs(s - seconds) / s)


def measure(page):
    "Seconds of one processor that a page takes; None if it fails"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = {f'{x}_NUM_THREADS': '1' for x in ('OMP', 'MKL', 'OPENBLAS')}
    command = [str(Path(sys.executable).with_name('nbdev_test')), '--path', f'nbs/{page}']
    run = subprocess.run(
        [*command, '--n_workers', '0', '--do_print'],
        cwd=root,
        env=os.environ | threads,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode or re.search(r'^Error', run.stderr + run.stdout, re.M):
        return None
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def keep(known):
    "Write the numbers, in the order of their names"
    text = json.dumps(known, indent=1, sort_keys=True)
    KEPT.write_text(text + '\n', encoding='utf-8')


def read_log(path, known):
    "Add the numbers of pages that passed, as `tools/test_pages.py` prints them"
    pages = {str(p): nb for p, nb in notebooks().items()}
    for page, seconds in re.findall(r'^(\S+\.ipynb): ([\d.]+) s$', Path(path).read_text(), re.M):
        if page in pages:
            known[page] = dict(seconds=float(seconds), code=fingerprint(pages[page]))
    keep({p: v for p, v in known.items() if p in pages})


def main(wanted):
    pages = {str(p): nb for p, nb in notebooks().items()}
    known = {p: v for p, v in kept().items() if p in pages}
    for page in wanted or stale(known):
        page = page.removeprefix('nbs/')
        seconds = measure(page)
        if seconds is None:
            print(f'{page}: fails, so it has no number')
            continue
        known[page] = dict(seconds=round(seconds, 1), code=fingerprint(pages[page]))
        print(f'{page}: {seconds:.1f} s', flush=True)
        keep(known)


if __name__ == '__main__':
    if '--check' in sys.argv:
        sys.exit('run python tools/page_seconds.py: ' + ', '.join(stale()) if stale() else 0)
    if '--log' in sys.argv:
        read_log(sys.argv[sys.argv.index('--log') + 1], kept())
    else:
        main(sys.argv[1:])
