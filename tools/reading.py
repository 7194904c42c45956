"""`python tools/reading.py`: what a script can do for the reader of a page.

A page that names no next page gets a link to the next one of the sidebar. A cell that only tests is
folded: on the site by the code-fold of Quarto, in JupyterLab by the metadata of the cell. What
follows title and promise in the first cell gets a cell of its own, since nbdev drops the rest of
that cell on the site. Imports at the head of a cell get a cell of their own, since nbdev runs every
cell that imports, with all that it holds, when it builds the site.
`--check` only says which pages are not so.
"""

import ast
import hashlib
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


def new_cell(kind, source, taken):
    "A cell whose id follows from its text and is not among those `taken`"
    mark, text = 0, ''.join(source)
    while True:
        name = hashlib.md5(f'{kind} {text} {mark or ""}'.encode()).hexdigest()[:8]
        if name not in taken:
            break
        mark += 1
    taken.add(name)
    found = dict(cell_type=kind, id=name, metadata={}, source=text.splitlines(True))
    return found | (dict(execution_count=None, outputs=[]) if kind == 'code' else {})


def opening(source):
    "(title and promise, the rest) of a page's first markdown cell"
    lines = source.split('\n')
    first = next(i for i, x in enumerate(lines) if x.startswith('# '))
    said = [i for i, x in enumerate(lines) if x.startswith('> ')][:1]
    head = '\n\n'.join(lines[i] for i in [first, *said])
    rest = '\n'.join(x for i, x in enumerate(lines) if i not in (first, *said))
    return head, re.sub(r'\n{3,}', '\n\n', rest).strip()


def opened(cells):
    "The cells, title and promise alone in theirs"
    titled = [
        i
        for i, c in enumerate(cells)
        if c['cell_type'] == 'markdown' and re.search(r'^# ', ''.join(c['source']), re.M)
    ]
    if not titled:
        return cells
    head, rest = opening(''.join(cells[titled[0]]['source']))
    if not rest:
        return cells
    taken = {c['id'] for c in cells}
    title_cell = cells[titled[0]] | dict(source=head.splitlines(True))
    return [
        *cells[: titled[0]],
        title_cell,
        new_cell('markdown', rest, taken),
        *cells[titled[0] + 1 :],
    ]


def leading_imports(source):
    "(imports, the rest) of a cell that begins with imports and goes on; None for any other"
    if re.search(r'^#\|\s*export|^\s*[%!]', source, re.M):
        return None
    directives = re.match(r'(?:#\|.*\n)*', source)[0]
    code = source[len(directives) :]
    body = ast.parse(code).body
    is_import = [isinstance(n, ast.Import | ast.ImportFrom) for n in body]
    n = next((i for i, x in enumerate(is_import) if not x), len(body))
    if not n or n == len(body):
        return None
    lines = code.split('\n')
    end = body[n - 1].end_lineno
    rest = '\n'.join(lines[end:]).strip('\n')
    return directives + '\n'.join(lines[:end]), directives + rest


def imports_apart(cells):
    "The cells, leading imports in cells of their own, before the code that uses them"
    taken, found = {c['id'] for c in cells}, []
    for c in cells:
        parts = c['cell_type'] == 'code' and leading_imports(''.join(c['source']))
        if parts:
            found.append(new_cell('code', parts[0], taken))
            c = c | dict(source=parts[1].splitlines(True))
        found.append(c)
    return found


def pages():
    "Path relative to nbs -> page, in the order of the sidebar"
    there = [p for p in sidebar_targets() if (root / 'nbs' / p).is_file()]
    return {p: json.loads((root / 'nbs' / p).read_text(encoding='utf-8')) for p in there}


def changed():
    "Path relative to nbs -> text of each page that is not as it should be"
    found, known = {}, pages()
    order = list(known)
    for here, target in zip(order, [*order[1:], order[0]]):
        page = known[here]
        before = json.dumps(page, sort_keys=True)
        page['cells'] = imports_apart(opened(page['cells']))
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
