"""`python tools/pages.py [PAGES]`: where the form of a page departs from the rules of CONTRIBUTING.

One line for each departure: wide lines, long functions and cells, missing annotations, names that
nothing uses, a page that ends in a test. Without PAGES all pages are read.
"""

import ast
import json
import re
import sys
from pathlib import Path

from measure import body_lines, functions, public_functions, root, unannotated

WIDTH, PROMISE, LINES, CELLS = 100, 94, 40, 60


def cells(page):
    "(kind, source) of every cell"
    found = json.loads(Path(page).read_text(encoding='utf-8'))['cells']
    return [(c['cell_type'], ''.join(c['source'])) for c in found]


def is_export(source):
    return source.startswith('#| export')


def is_test_only(kind, source):
    "Asserts, and nothing that a reader sees"
    if kind != 'code' or 'assert' not in source or source.startswith('#| export'):
        return False
    last = ast.parse(source).body[-1]
    return isinstance(last, (ast.Assert, ast.For, ast.Try, ast.With, ast.If)) or (
        isinstance(last, ast.Expr) and '.cleanup()' in source
    )


def is_import_only(kind, source):
    "Imports, and at most settings of pictures (`plt.rcParams[...] = ...`)"
    if kind != 'code' or not source.strip() or re.search(r'^\s*[%!]', source, re.M):
        return False
    body = ast.parse(source).body
    settings = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)]
    return bool(body) and all(
        isinstance(n, ast.Assign | ast.Expr) and 'rcParams' in ast.unparse(n) for n in settings
    )


def ideas(found):
    "How many cells hold something to learn: without title, module name, imports and settings"
    frame = [
        (kind, source)
        for kind, source in found
        if source.startswith(('# ', '#| default_exp')) or is_import_only(kind, source)
    ]
    return len(found) - len(frame)


def ends_in_test(found):
    "Whether the last cell of a page, its (kind, source) pairs given, only tests"
    return is_test_only(*found[-1])


def promise(found):
    "The line under the title of a page, its (kind, source) pairs given; None if there is none"
    said = re.search(r'^> (.*)$', '\n'.join(s for k, s in found if k == 'markdown'), re.M)
    return said and said[1]


def signature_lines(node):
    "Lines from `def` to the colon, and of the docstring"
    documented = ast.get_docstring(node) is not None
    first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
    return max(0, first.lineno - node.lineno)


def net_lines(source):
    "Lines of a cell without signatures, docstrings, comments and blank lines"
    tree = ast.parse(source)
    lines = source.split('\n')
    taken = set()
    for f in functions(tree):
        taken |= set(range(f.lineno, f.lineno + signature_lines(f)))
    kept = [x for i, x in enumerate(lines, 1) if i not in taken]
    return len([x for x in kept if x.strip() and not x.strip().startswith('#')])


def top_names(tree):
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            yield n.name
        elif isinstance(n, ast.Assign):
            yield from (t.id for t in n.targets if isinstance(t, ast.Name))


def words_of_others(page):
    "Every identifier outside this page: pages, tests, tools, the package's own __init__"
    texts = [
        p.read_text(encoding='utf-8') for d in ('tests', 'tools') for p in root.glob(d + '/*.py')
    ]
    texts.append((root / 'mri_diffusion/__init__.py').read_text(encoding='utf-8'))
    for p in root.glob('nbs/**/*.ipynb'):
        if p.resolve() != Path(page).resolve() and '.ipynb_checkpoints' not in p.parts:
            texts += [source for kind, source in cells(p) if kind == 'code']
    return set(re.findall(r'\w+', '\n'.join(texts)))


def problems(page):
    "Lines that say what departs from the rules"
    found = cells(page)
    if ideas(found) > CELLS:
        yield f'{ideas(found)} cells, more than {CELLS}'
    if ends_in_test(found):
        yield 'ends in a cell that only tests'
    said = promise(found)
    if said and len(said) > PROMISE:
        yield f'its promise has {len(said)} characters, more than {PROMISE}'
    others = words_of_others(page)
    for i, (kind, source) in enumerate(found):
        if kind != 'code' or re.search(r'^\s*[%!]', source, re.M):
            continue
        wide = [len(x) for x in source.split('\n') if len(x) > WIDTH]
        if wide:
            yield f'cell {i}: {len(wide)} lines over {WIDTH} characters, the widest {max(wide)}'
        if not is_export(source):
            continue
        tree = ast.parse(source)
        if net_lines(source) > LINES:
            yield f'cell {i}: {net_lines(source)} lines of code, more than {LINES}'
        for f in functions(tree):
            if body_lines(f) > LINES:
                yield f'cell {i}: {f.name} has {body_lines(f)} lines, more than {LINES}'
        for f in public_functions(tree):
            if lacking := unannotated(f):
                yield f'cell {i}: {f.name}: not annotated: {", ".join(lacking)}'
        lonely = [n for n in top_names(tree) if n not in others and not n.startswith('_')]
        if lonely:
            yield f'cell {i}: used by no other page, test or tool: {", ".join(lonely)}'


def main(pages):
    pages = [Path(p) for p in pages] or sorted(root.glob('nbs/**/*.ipynb'))
    for page in pages:
        for said in problems(page):
            print(f'{page}: {said}')


if __name__ == '__main__':
    main(sys.argv[1:])
