"""`python tools/test_pages.py [PAGES]`: every page runs, as nbdev_test runs it, two at a time.

Each page has a process of its own; the longest begin first (`results/page_seconds.json`). Says of each
page how long it took, in seconds of one processor; `tools/page_seconds.py --log FILE` reads that from
what is printed. `make test` starts the processes by `tools/warm.py`, with PyTorch imported.
"""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

from page_seconds import kept
from project import notebooks, root

LINE = '{page}: {seconds:.1f} s'


def used():
    "Seconds of processors that this process and its children have used"
    both = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in both)


def run(page):
    "Run a page in this process; what it raised goes to stderr; the exit code"
    from nbdev.config import get_config
    from nbdev.test import test_nb

    flags = get_config().tst_flags.split()
    with TemporaryDirectory() as tmp:
        # what it starts by tools/warm.py is no child of this process, and is counted there
        others = Path(os.environ.setdefault('WARM_SECONDS', f'{tmp}/seconds'))
        passed, _ = test_nb(root / 'nbs' / page, skip_flags=flags, basepath=root)
        more = sum(map(float, others.read_text().split())) if others.exists() else 0
    print(LINE.format(page=page, seconds=used() + more) + ' FAILED' * (not passed), flush=True)
    return int(not passed)


def start(page):
    "Run a page in a process of its own; whether it passed"
    words = 'import sys; sys.path.insert(0, "tools"); import test_pages as t; '
    words += f'sys.exit(t.run({page!r}))'
    python = os.environ.get('WARM_PYTHON', sys.executable)
    code = subprocess.run([python, '-c', words], cwd=root).returncode
    if code not in (0, 1):
        print(f'{page}: ended with exit code {code} FAILED', flush=True)
    return code == 0


def main(wanted):
    pages = [p.removeprefix('nbs/') for p in wanted] or [str(p) for p in notebooks()]
    known = {p: v['seconds'] for p, v in kept().items()}
    pages.sort(key=lambda p: -known.get(p, 60))  # a new page may be a long one
    with ThreadPoolExecutor(2) as pool:
        runs = {pool.submit(start, p): p for p in pages}
        failed = [runs[done] for done in as_completed(runs) if not done.result()]
    if failed:
        again = '\n'.join(f'  .venv/bin/python tools/test_pages.py {p}' for p in sorted(failed))
        sys.exit(f'pages that failed; one alone:\n{again}')
    print(f'all {len(pages)} pages run')


if __name__ == '__main__':
    main(sys.argv[1:])
