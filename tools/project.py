"What the scripts and the tests of the project share: its root, its files, its notebooks"

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import yaml

root = Path(__file__).resolve().parent.parent
_built = (
    '.git',
    '.venv',
    '_proc',
    '_docs',
    'build',
    'dist',
    'runs',
    '__pycache__',
    '.ipynb_checkpoints',
    '.pytest_cache',
)


def files():
    "Files that belong to the project (tracked, or new and not ignored), relative to the root"
    git = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard', '-z'],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if git.returncode == 0:
        found = [Path(f) for f in git.stdout.split('\0') if f]
    else:
        found = [p.relative_to(root) for p in root.rglob('*')]
    return sorted(
        p
        for p in set(found)
        if (root / p).is_file() and not any(s in _built or s.endswith('.egg-info') for s in p.parts)
    )


def copy_to(folder):
    "A copy of the project in `folder`, without what is built"
    for p in files():
        (folder / p).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / p, folder / p)
    return folder


def notebooks(base=root):
    "All pages, relative to `nbs`: path -> notebook"
    paths = sorted((base / 'nbs').rglob('*.ipynb'))
    keep = [
        p
        for p in paths
        if not any(s.startswith(('.', '_')) for s in p.relative_to(base / 'nbs').parts)
    ]
    return {p.relative_to(base / 'nbs'): nbformat.read(p, 4) for p in keep}


def exported(nb):
    "Module that a page exports, as in `noise.sigma`; None if it exports none"
    first = '\n'.join(c.source for c in nb.cells[:3])
    named = re.search(r'^#\|\s*default_exp\s+([\w.]+)', first, re.M)
    return named[1] if named else None


def modules():
    "Modules in reading order, which is that of the sidebar: dotted name -> page"
    pages = notebooks()
    found = {exported(pages[p]): p for p in map(Path, sidebar_targets()) if p in pages}
    return {name: page for name, page in found.items() if name}


def sidebar_targets(base=root):
    "Pages named in the sidebar, relative to nbs"

    def walk(x):
        if isinstance(x, str):
            return [x] if x.endswith(('.ipynb', '.qmd', '.md')) else []
        if isinstance(x, dict):
            return [t for k in ('contents', 'href', 'file') if k in x for t in walk(x[k])]
        return [t for y in x for t in walk(y)]

    return walk(yaml.safe_load((base / 'nbs/sidebar.yml').read_text())['website']['sidebar'])


def navbar_targets(base=root):
    "Pages that the bar at the top leads to, relative to nbs"
    bar = yaml.safe_load((base / 'nbs/_quarto.yml').read_text())['website']['navbar']
    return [entry['href'] for side in ('left', 'right') for entry in bar.get(side, [])]


def stored_errors(base=root):
    "Pages that hold an error output"
    return [
        f'nbs/{p}: cell {i} holds an error output'
        for p, nb in notebooks(base).items()
        for i, c in enumerate(nb.cells)
        if any(o.output_type == 'error' for o in c.get('outputs', []))
    ]


def words(markdown):
    "The text of some markdown without what the site may change in it: marks and targets of links"
    text = re.sub(r'\]\([^)\s]*\)', ']', markdown)
    return re.sub(r'[\s\[\]`]+', ' ', text).strip()


def text_problems(page, before, after):
    "Paragraphs of a notebook that its processed page has lost, and pictures without a text"
    head = next((c.source for c in after.cells if c.cell_type == 'raw'), '')
    front = yaml.safe_load(head.strip().strip('-')) or {}
    kept = [front.get('title', ''), front.get('description', '')]
    kept += [c.source for c in after.cells if c.cell_type == 'markdown']
    kept = words('\n\n'.join(map(str, kept)))
    said = [c.source for c in before.cells if c.cell_type == 'markdown']
    blocks = [
        b for s in said for b in re.split(r'\n\s*\n', re.sub(r'^(?:# |> )', '', s, flags=re.M))
    ]
    lost = [b for b in blocks if words(b) not in kept]
    return [f'{page}: the site loses {words(b)[:70]!r}' for b in lost] + [
        f'{page}: {what}' for what in picture_problems(before, after)
    ]


def pictures(nb):
    "How many stored pictures the cells hold that the site shows"
    shown = [c for c in nb.cells if c.cell_type == 'code' and '#| hide' not in c.source]
    found = [o for c in shown for o in c.outputs if any('image/' in k for k in o.get('data', {}))]
    return len(found)


def picture_problems(before, after):
    "Pictures that are lost, or that say nothing to those who do not see them"
    if pictures(before) != pictures(after):
        yield f'{pictures(before)} pictures in the notebook, {pictures(after)} on the site'
    for c in after.cells:
        outputs = c.get('outputs', [])
        drawn = any('image/' in k for o in outputs for k in o.get('data', {}))
        if drawn and not re.search(r'^#\| fig-alt: \S', c.source, re.M):
            yield f'a picture without alt text: {c.source.strip().splitlines()[-1]}'
        pages = [''.join(o.get('data', {}).get('text/html', '')) for o in outputs]
        if any(re.search(r'<img\s(?![^>]*\balt="[^"])', p) for p in pages):
            yield f'a picture in HTML without alt text: {c.source.strip().splitlines()[-1]}'
        if c.cell_type == 'markdown' and re.search(r'!\[\]\(', c.source):
            yield f'a picture without alt text: {c.source.strip().splitlines()[0]}'


def process(page):
    "Process one page as nbdev does for the site; its problems"
    import warnings

    import nbformat
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import main

    done = Path('_proc') / page.relative_to('nbs')
    done.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            main((page, done, FilterDefaults))
    except Exception as e:
        return [
            f"{page}: the site's build fails on a cell that mixes imports with other code "
            f'({type(e.__cause__ or e).__name__}: {e.__cause__ or e}): '
            + str(e).split(':\n')[-1].split('\n')[0]
        ]
    mixed = {str(w.message) for w in said if 'imports and other code' in str(w.message)}
    problems = text_problems(page, nbformat.read(page, 4), nbformat.read(done, 4))
    problems += [f'{page}: imports and other code in one cell: {m.splitlines()[2]}' for m in mixed]
    return problems + [
        f'{page}: nothing shown for {c.source.strip().splitlines()[-1]}'
        for c in nbformat.read(done, 4).cells
        if c.cell_type == 'code' and re.search(r'^\s*show_doc\(', c.source, re.M) and not c.outputs
    ]
