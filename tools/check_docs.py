"""The site's pages without Quarto: processed as for the site, then searched for what is broken.

A page that loses a paragraph, a picture, or the text of a picture is broken, and so is a cell that
mixes imports with other code: nbdev runs such a cell when it builds the site.
Stored errors and the sidebar are tested in tests/test_project.py.
"""

import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from project import copy_to, navbar_targets, notebooks, process, sidebar_targets

_link = re.compile(r'(?<!\\)\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)')


def sidebar_problems(base):
    "Targets that are missing, and pages that the sidebar forgets"
    targets, pages = sidebar_targets(base), [str(p) for p in notebooks(base)]
    there = lambda t: (base / 'nbs' / t).is_file()
    lost = [f'nbs/sidebar.yml: {t} does not exist' for t in targets if not there(t)]
    lost += [f'nbs/_quarto.yml: {t} does not exist' for t in navbar_targets(base) if not there(t)]
    return lost + [f'nbs/sidebar.yml: {p} is not in it' for p in pages if p not in targets]


def markdown(base):
    "(file, text) of everything a reader sees as markdown"
    for p, nb in notebooks(base).items():
        yield base / 'nbs' / p, '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    for p in [*base.glob('*.md'), *base.glob('results/**/*.md')]:
        yield p, p.read_text(encoding='utf-8')


def dead_links(base):
    "Relative links that lead nowhere"
    dead = []
    for path, text in markdown(base):
        text = re.sub(r'```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$', '', text, flags=re.S)
        for target in _link.findall(text):
            if re.match(r'\w+:|#|/', target) or target.startswith('attachment:'):
                continue
            file = path.parent / target.split('#')[0]
            if not file.exists() and not file.with_suffix('.ipynb').exists():
                dead.append(f'{path.relative_to(base)}: dead link {target}')
    return dead


def check():
    "Every problem found, one line each"
    with TemporaryDirectory() as d:
        base = copy_to(Path(d).resolve())
        pages = [Path('nbs') / p for p in notebooks(base)]
        with ProcessPoolExecutor(2, get_context('spawn'), os.chdir, (base,)) as pool:
            processed = list(pool.map(process, pages))
        return [
            *dead_links(base),
            *(p for found in processed for p in found),
        ]


if __name__ == '__main__':
    problems = check()
    if problems:
        sys.exit('\n'.join(problems))
