"""How a page on the site differs from its notebook: nbdev calls `SitePage` (`procs` in settings.ini).

Every picture gets a text for those who do not see it, imports and the code of experiments are folded,
tables have readable headers and room, links out of `nbs` lead to the repository, names of the library
lead to its own pages, and the run time stands at the top. Nothing here needs a word in the notebook;
`#| fig-alt: ...` in a cell says another text for its picture. `tools` has to be on PYTHONPATH.
"""

import ast
import html
import json
import os
import re
from pathlib import Path

from execnb.nbio import mk_cell
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html
from page_seconds import about, kept
from pages import is_import_only

LONGEST = 300  # Characters of a picture's text
WIDE = 130  # Characters of a table's row from which on it gets the width of the page
TITLES = 'set_title', 'title', 'suptitle', 'set_xlabel', 'set_ylabel', 'xlabel', 'ylabel'
WORDS = ('title', 'xlabel', 'ylabel', 'label', 'name', 'names', 'titles', 'labels')
# Pages whose results one reads first, and the code after
FOLDED = 'experiments/', 'docs/leaderboard', 'docs/weights', 'docs/claims'
KINDS = {
    'Images': ('imshow', 'show_slices', 'show_planes', 'show_maps', 'show_triptych', 'pcolormesh'),
    'Histogram': ('hist', 'hist2d', 'stairs'),
    'Bar chart': ('bar', 'barh'),
    'Scatter plot': ('scatter', 'hexbin'),
    'Curves': ('plot', 'semilogy', 'semilogx', 'loglog', 'errorbar', 'step', 'show_history'),
}
# Words of column names, as a reader writes them
COLUMNS = {
    **{
        w: w.upper() for w in ('psnr', 'ssim', 'nmse', 'hfen', 'fa', 'md', 'ad', 'rd', 'snr', 'cnr')
    },
    **{'dsnr': 'dSNR', 'dcnr': 'dCNR', 'rms': 'RMS', 'gflop': 'GFLOP', 'dipy': 'DIPY'},
    **{'cpu': 'CPU', 'gpu': 'GPU', 'rho': 'ρ', 'se': 's.e.', 'std': 's.d.', 'percent': '%'},
}
METHODS = ('unet_pca',)  # Names that one types stay as they are


def text(x):
    "A source or an output as one string: notebooks keep either that or a list of lines"
    return x if isinstance(x, str) else ''.join(x or [])


def has_option(cell, name):
    return bool(re.search(rf'^#\|\s*{name}\s*:', text(cell['source']), re.M))


def add_option(cell, name, value):
    "Say an option of Quarto at the head of a cell, unless the page says it itself"
    if not has_option(cell, name):
        cell['source'] = f'#| {name}: {value}\n' + text(cell['source'])


def is_picture(output):
    return any(kind.startswith('image/') for kind in output.get('data', {}))


def is_left_out(output):
    "What Quarto does not print beside a picture: the name of an object (`[<matplotlib...>]`)"
    only = list(output.get('data', {})) == ['text/plain']
    said = text(output['data']['text/plain']).strip() if only else ''
    return (
        output.get('output_type') == 'execute_result'
        and '\n' not in said
        and bool(re.fullmatch(r'[<(\[].*[>)\]]', said))
    )


# Text for pictures


def _string(node):
    "What a constant or an f-string says, its expressions left out"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(_string(v) or '…' for v in node.values)
    return None


def _called(node):
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')


def _strings(node, known):
    """Strings directly in a node: itself, the items of a list or tuple (of a tuple in it the first),
    the keys of a dict; of a name what was assigned to it in the cell (`known`)"""
    if isinstance(node, ast.Call) and _called(node) == 'items':
        return _strings(node.func.value, known)
    if isinstance(node, ast.Call) and _called(node) == 'dict':
        return [k.arg for k in node.keywords if k.arg]
    if isinstance(node, ast.Name) and node.id in known:
        return _strings(known[node.id], {k: v for k, v in known.items() if k != node.id})
    if isinstance(node, ast.Dict):
        return [s for k in node.keys if k is not None and (s := _string(k))]
    if isinstance(node, ast.List | ast.Tuple):
        first = [e.elts[0] if isinstance(e, ast.Tuple) and e.elts else e for e in node.elts]
        return [s for e in first if (s := _string(e))]
    said = _string(node)
    return [said] if said else []


def _call_strings(node, known):
    "What one call writes into a picture"
    name = _called(node)
    if name == 'show_triptych':
        yield from ('noisy', 'denoised', 'residual')
    if name in TITLES and node.args:
        yield from _strings(node.args[0], known)
    if name in ('zip', 'enumerate') or name.startswith('show_') or name in ('panels', 'draw'):
        for a in node.args:
            yield from _strings(a, known)
    if name not in ('dict', 'print', 'DataFrame', 'Series'):
        for k in node.keywords:
            if k.arg in WORDS:
                yield from _strings(k.value, known)


def plain(said):
    "A label without mathematics' marks, quotes and line breaks"
    said = re.sub(r'\\sqrt\b', '√', said)
    said = re.sub(r'\\(?:mathrm|text|hat|bar|quad)\b', '', said)
    said = re.sub(r'[$\\{}]', '', said).replace('\n', ', ').replace("'", '’').replace('"', '’')
    return re.sub(r'\s+', ' ', said).strip(' ,;:')


def labels(source):
    "What the code of a picture writes into it, in order, each once"
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    calls.sort(key=lambda n: (n.lineno, n.col_offset))
    known = {
        n.targets[0].id: n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    found = [plain(s) for n in calls for s in _call_strings(n, known)]
    return [s for s in dict.fromkeys(found) if re.search(r'[^\W_]', s)]


def kind_of_picture(source):
    "Images, curves, ...: by the calls that draw"
    for kind, names in KINDS.items():
        if re.search(rf'\b(?:{"|".join(names)})\(', source):
            return kind
    return 'Picture'


def last_sentence(markdown):
    "The last sentence of prose, without its marks"
    prose = re.sub(r'```.*?```|\$\$.*?\$\$', '', markdown, flags=re.S)
    prose = re.sub(r'^(?:#|\||>|<!--).*$', '', prose, flags=re.M)
    prose = plain(re.sub(r'\[([^\]]*)\]\([^)]*\)|[*`]', r'\1', prose))
    return re.split(r'(?<=[.!?])\s+(?=[A-Z])', prose)[-1] if prose else ''


def shortened(said):
    return said if len(said) <= LONGEST else said[: LONGEST - 1].rsplit(' ', 1)[0] + '…'


def alt_text(source, heading, prose, which=''):
    "One line for a picture: what kind, under which heading, and what is written in it"
    said = '; '.join(labels(source)) or last_sentence(prose)
    about_it = f'{kind_of_picture(source)}{which}, {plain(heading)}'
    return shortened(f'{about_it}: {said}' if said else about_it)


def describe_pictures(cells, title):
    "Give every picture of a page its text"
    heading, prose = title, ''
    for c in cells:
        if c['cell_type'] == 'markdown':
            source = text(c['source'])
            found = re.findall(r'^#+ +(.+?)\s*(?:\{.*\})?$', source, re.M)
            heading, prose = (found[-1] if found else heading), source
            told = f'![{plain(heading)}]('
            c['source'] = re.sub(r'!\[\]\(', lambda m, told=told: told, source)
        elif c['cell_type'] == 'code' and c.get('outputs'):
            describe_cell(c, heading, prose)


def describe_cell(cell, heading, prose):
    "Text for the pictures that one cell shows, those inside HTML too"
    if any(map(is_picture, cell['outputs'])):
        cell['outputs'] = [o for o in cell['outputs'] if not is_left_out(o)]
    outputs = cell['outputs']
    n, said, source = sum(map(is_picture, outputs)), [], text(cell['source'])
    for o in outputs:
        which = f' {sum(bool(s) for s in said) + 1} of {n}' if n > 1 else ''
        said.append(alt_text(source, heading, prose, which) if is_picture(o) else '')
        if 'text/html' in o.get('data', {}):
            o['data']['text/html'] = with_alt(
                text(o['data']['text/html']), alt_text(source, heading, prose)
            )
    if n:  # One text holds for all outputs of a cell; a list has one for each output
        value = next(s for s in said if s) if n == 1 else said
        add_option(cell, 'fig-alt', json.dumps(value, ensure_ascii=False))


def with_alt(page, said):
    "Pictures in HTML that have no text get this one"
    told = f'<img alt="{html.escape(said)}" '
    return re.sub(r'<img\s+(?![^>]*\balt=)', lambda m: told, page)


# Tables


def column_name(name):
    "`psnr_tissue` as a reader writes it; a name without `_` and no known word stays"
    if name in METHODS:
        return name
    words = [COLUMNS.get(w, w) for w in name.split('_')]
    return ' '.join(words) + (', dB' if words[0] == 'PSNR' and ',' not in name else '')


def readable_table(page):
    "Tables in HTML: column names in words, a dash where there is no number"
    page = re.sub(r'(<td[^>]*>\s*)(?:NaN|nan|NaT|&lt;NA&gt;)(\s*</td>)', r'\1–\2', page, flags=re.I)
    in_head = lambda m: re.sub(
        r'(<th\b[^>]*>)([^<>]*)(</th>)', lambda h: h[1] + column_name(h[2]) + h[3], m[0]
    )
    return re.sub(r'<thead.*?</thead>', in_head, page, flags=re.S)


def row_width(page):
    "Characters of the widest row of the tables in some HTML"
    rows = re.findall(r'<tr.*?</tr>', page, re.S)
    cells = [re.findall(r'<t[dh]\b[^>]*>(.*?)</t[dh]>', r, re.S) for r in rows]
    length = lambda x: len(html.unescape(re.sub(r'<[^>]+>', '', x)).strip())
    return max((sum(2 + min(length(x), 40) for x in r) for r in cells), default=0)


def mend_tables(cells):
    for c in cells:
        for o in c.get('outputs') or []:
            page = text(o.get('data', {}).get('text/html'))
            if '<table' not in page:
                continue
            o['data']['text/html'] = readable_table(page)
            if row_width(o['data']['text/html']) > WIDE:
                add_option(c, 'column', 'page')


# Code that a reader opens


def fold(cell, summary):
    add_option(cell, 'code-summary', json.dumps(summary))
    add_option(cell, 'code-fold', 'true')


def fold_code(cells, everything):
    "Fold imports, with the settings after them; or `everything`, but the parameters of experiments"
    found = []
    for c in cells:
        if c['cell_type'] != 'code' or not text(c['source']).strip():
            found.append(c)
            continue
        source, last = text(c['source']), found[-1] if found else None
        if is_import_only('code', source):
            both = last is not None and last.get('only_imports') and not has_option(c, '')
            if both:
                last['source'] = text(last['source']) + '\n\n' + source
                last['outputs'] = [*last.get('outputs', []), *c.get('outputs', [])]
                continue
            fold(c, 'Imports')
            c['only_imports'] = True
        elif everything and 'parameters' not in c.get('metadata', {}).get('tags', []):
            fold(c, 'Code')
        found.append(c)
    for c in found:
        c.pop('only_imports', None)
    return found


# Links


def mend_links(source, here, cfg):
    "Links out of nbs lead to the repository; those to the site itself do not leave it"
    folder = os.path.dirname(here)
    blob = f'{cfg["git_url"]}/blob/{cfg["branch"]}/'
    site = f'{cfg["doc_host"]}{cfg["doc_baseurl"]}/'

    def outside(m):
        target = os.path.normpath(os.path.join(folder, m[2]))
        if not target.startswith('..'):
            return m[0]
        return m[1] + blob + os.path.normpath(os.path.join('nbs', folder, m[2])) + m[3]

    source = re.sub(r'(\]\()(\.\./[^)\s#]*)([^)]*\))', outside, source)
    inside = lambda m: '](' + os.path.relpath(m[1], folder or '.')
    return re.sub(rf'\]\({re.escape(site)}([^)#\s]+)', inside, source)


def html_links(page):
    "Links to pages, written in HTML: Quarto only knows those in markdown"
    to_page = lambda m: f'href="{_nbpath2html(Path(m[1])).as_posix()}{m[2] or ""}"'
    return re.sub(r'href="([^":]+\.ipynb)(#[^"]*)?"', to_page, page)


def mend_all_links(cells, here, cfg):
    for c in cells:
        if c['cell_type'] == 'markdown':
            c['source'] = mend_links(text(c['source']), here, cfg)
        for o in c.get('outputs') or []:
            data = o.get('data', {})
            if 'text/markdown' in data:
                data['text/markdown'] = mend_links(text(data['text/markdown']), here, cfg)
            if 'href=' in text(data.get('text/html')):
                data['text/html'] = html_links(text(data['text/html']))


# The line at the top


def run_time(here, seconds, cfg):
    "What the line under the promise says: run time, and where the notebook is"
    source = f'[notebook]({cfg["git_url"]}/blob/{cfg["branch"]}/nbs/{here})'
    said = f'About {about(seconds)} s on one core · ' if seconds else ''
    return f'::: {{.run-time}}\n{said}{source}\n:::'


def polish(nb, here, cfg, seconds=None):
    "Everything, in place; `here` is the page relative to nbs"
    title = re.search(r'^title: (.*)$', text(nb['cells'][0]['source']), re.M)
    title = title[1].strip('\'"') if title else Path(here).stem
    describe_pictures(nb['cells'], title)
    mend_tables(nb['cells'])
    nb['cells'] = fold_code(nb['cells'], here.startswith(FOLDED))
    mend_all_links(nb['cells'], here, cfg)
    if here != 'index.ipynb':
        nb['cells'].insert(2, mk_cell(run_time(here, seconds, cfg), 'markdown'))


class SitePage:
    "The processor that nbdev calls; it has its say when all cells are done"

    def __init__(self, nb):
        self.nb = nb

    def end(self):
        cfg = get_config()
        here = Path(self.nb.path_).resolve().relative_to(cfg.nbs_path.resolve()).as_posix()
        polish(self.nb, here, cfg, kept(cfg.config_path).get(here, {}).get('seconds'))
