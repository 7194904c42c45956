"""`python tools/test_pages.py [PAGES]`: every page runs, as nbdev_test runs it, two at a time.

Says of each page how long it took, in seconds of one processor; `tools/page_seconds.py --log FILE`
reads that from what is printed.
"""

import os
import resource
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed

from project import notebooks, root

LINE = '{page}: {seconds:.1f} s'


def used():
    "Seconds of processors that this process and its children have used"
    both = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in both)


def run(page):
    "Page, whether it passed, seconds; what it raised goes to stderr"
    from nbdev.config import get_config
    from nbdev.test import test_nb

    begin = used()
    flags = get_config().tst_flags.split()
    passed, _ = test_nb(root / 'nbs' / page, skip_flags=flags, basepath=root)
    return page, passed, used() - begin


def main(wanted):
    from test_pages import run  # by its own name: a page takes the place of __main__

    os.chdir(root)
    pages = [p.removeprefix('nbs/') for p in wanted] or [str(p) for p in notebooks()]
    failed = []
    # as processes start by default: a page may start some of its own, and they inherit the way
    with ProcessPoolExecutor(2) as pool:
        for done in as_completed([pool.submit(run, p) for p in sorted(pages)]):
            page, passed, seconds = done.result()
            print(LINE.format(page=page, seconds=seconds) + ' FAILED' * (not passed), flush=True)
            failed += [page] * (not passed)
    if failed:
        sys.exit('pages that failed: ' + ', '.join(failed))
    print(f'all {len(pages)} pages run')


if __name__ == '__main__':
    main(sys.argv[1:])
