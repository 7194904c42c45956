"""`python tools/reading.py`: what a script can do for the reader of a page.

A page that names no next page gets a link to the next one of the sidebar, and a cell that only
tests is folded: on the site by the code-fold of Quarto, in JupyterLab by the metadata of the cell.
`--check` only says which pages are not so.
"""

import json
import os
import re
import sys

from pages import is_test_only
from project import root, sidebar_targets

FOLD = '#| code-fold: true\n#| code-summary: "Proof"\n'
NEXT = re.compile(r'\bNext:\*? ')


def title(page):
    "The first heading of a page"
    for c in page['cells']:
        found = re.search(r'^# (.+)$', ''.join(c['source']), re.M)
        if c['cell_type'] == 'markdown' and found:
            return found[1].strip()
    return 'the next page'


def folded(cell):
    "The source of a cell, folded if it only tests and unfolded if it does not"
    source = ''.join(cell['source']).removeprefix(FOLD)
    hidden = dict(cell['metadata'])
    hidden.pop('jupyter', None)
    if is_test_only(cell['cell_type'], source) and not source.startswith('#| hide'):
        return FOLD + source, hidden | dict(jupyter=dict(source_hidden=True))
    return source, hidden


def with_next(source, here, target, name):
    "The last cell of a page; the link to the next page added if there is none"
    if NEXT.search(source):
        return source
    link = os.path.relpath(target, os.path.dirname(here) or '.')
    return f'{source.rstrip()}\n\n*Next:* [{name}]({link})'


def pages():
    "Path relative to nbs -> page, in the order of the sidebar"
    read = lambda p: json.loads((root / 'nbs' / p).read_text(encoding='utf-8'))
    return {p: read(p) for p in sidebar_targets()}


def changed():
    "Path relative to nbs -> text of each page that is not as it should be"
    found, known = {}, pages()
    order = list(known)
    for here, target in zip(order, [*order[1:], order[0]]):
        page = known[here]
        before = json.dumps(page, sort_keys=True)
        for c in page['cells']:
            if c['cell_type'] == 'code':
                source, c['metadata'] = folded(c)
                c['source'] = source.splitlines(True)
        last = page['cells'][-1]
        if last['cell_type'] == 'markdown' and here != 'index.ipynb':
            source = with_next(''.join(last['source']), here, target, title(known[target]))
            last['source'] = source.splitlines(True)
        if json.dumps(page, sort_keys=True) != before:
            text = json.dumps(page, indent=1, ensure_ascii=False, sort_keys=True)
            found[here] = text + '\n'
    return found


if __name__ == '__main__':
    stale = changed()
    if '--check' in sys.argv and stale:
        sys.exit('run python tools/reading.py: ' + ', '.join(stale))
    for page, text in stale.items():
        (root / 'nbs' / page).write_text(text, encoding='utf-8')
