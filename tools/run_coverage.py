"""`make coverage`: which lines of the library the pages and the tests run, together.

`python tools/run_coverage.py [PAGES ... --] [TESTS ...]` measures a part. An exported cell of a page
counts as the lines of the module that it became: a page runs its own cells, not the module.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import coverage
from project import notebooks, root

_header = re.compile(r'^# %% (\S+\.ipynb) #(\w+)$', re.M)


def line_of_cells():
    "Cell id -> (module, lines before the code of the cell), for every exported cell"
    found = {}
    for path in sorted((root / 'mri_diffusion').rglob('*.py')):
        source = path.read_text(encoding='utf-8')
        for m in _header.finditer(source):
            found[m[2]] = str(path), source.count('\n', 0, m.end()) + 1
    return found


def as_module(cell, places):
    "Let the source of an exported cell run under the name and the line numbers of its module"
    if getattr(cell, 'id', None) in places and 'export' in getattr(cell, 'directives_', {}):
        path, before = places[cell.id]
        source = '\n' * before + cell.source
        cell.source = f'exec(compile({source!r}, {path!r}, "exec"))'


def measured_page(page, env):
    "Run a page in this process and keep what it ran of the library; whether it passed"
    os.environ |= env
    measure = coverage.process_startup()
    try:
        return run_page(page)
    finally:
        measure.stop()
        measure.save()


def run_page(page):
    "Run a page as nbdev_test does; whether it passed"
    import nbdev.test
    from nbdev.config import get_config

    class Processor(nbdev.test.NBProcessor):
        def process(self):
            super().process()
            for cell in self.nb.cells:
                as_module(cell, places)

    places, nbdev.test.NBProcessor = line_of_cells(), Processor
    os.chdir(root / 'nbs')
    skipped = get_config().tst_flags.split()
    return nbdev.test.test_nb(root / 'nbs' / page, skip_flags=skipped, basepath=root)[0]


def run_pages(pages, env):
    "Run pages in two processes, a fresh one for each; those that failed"
    # these processes may have children of their own, as a page with a sweep has
    fresh = dict(mp_context=get_context('spawn'), max_tasks_per_child=1)
    with ProcessPoolExecutor(2, **fresh) as pool:
        passed = list(pool.map(measured_page, pages, [env] * len(pages)))
    return [str(p) for p, ok in zip(pages, passed) if not ok]


def report(data):
    "Join what all processes kept and print it"
    for words in (['combine', '--quiet'], ['report']):
        command = [sys.executable, '-m', 'coverage', *words]
        subprocess.run(command, cwd=root, env=os.environ | dict(COVERAGE_FILE=data))


def main(words):
    at = words.index('--') if '--' in words else 0
    pages, tests = words[:at] or list(notebooks()), words[at + 1 :] if at else words
    os.environ |= dict(PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    with TemporaryDirectory(prefix='mri-coverage-') as tmp:
        data = str(Path(tmp) / 'data')
        env = dict(
            COVERAGE_PROCESS_START=str(root / 'pyproject.toml'),
            COVERAGE_FILE=data,
            MEASURED_LIBRARY=str(root / 'mri_diffusion'),
        )
        failed = run_pages([Path(p) for p in pages], env)
        test = ['-m', 'pytest', '-n2', '--dist=loadfile', '-pno:cacheprovider', *tests]
        code = subprocess.run([sys.executable, *test], cwd=root, env=os.environ | env).returncode
        report(data)
    if failed:
        print('pages that failed: ' + ', '.join(failed))
    return bool(failed or code)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
