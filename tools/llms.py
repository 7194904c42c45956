"""`python tools/llms.py FOLDER`: the site's `llms.txt` (https://llmstxt.org), written by `make docs`.

One line for every page of the sidebar, under the sidebar's sections: title, address, promise.
"""

import sys
from pathlib import Path

import yaml
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html
from pages import cells, promise
from project import root


def page_line(page, site):
    "Title, address and promise of a page, relative to nbs"
    found = cells(root / 'nbs' / page)
    title = next(s for k, s in found if k == 'markdown' and s.startswith('# ')).splitlines()[0]
    return f'- [{title[2:].strip()}]({site}/{_nbpath2html(Path(page))}): {promise(found)}'


def sections(entries, name='Start'):
    "(section, pages) of a part of the sidebar, in its order; pages beside sections go by `name`"
    alone = [e for e in entries if isinstance(e, str)]
    found = [(name, alone)] if alone else []
    for e in entries:
        if isinstance(e, dict) and 'contents' in e:
            found += sections(e['contents'], e.get('section', name))
    return found


def llms(base=root):
    "The text of llms.txt"
    cfg = get_config(path=base)
    site = f'{cfg["doc_host"]}{cfg["doc_baseurl"]}'
    bar = yaml.safe_load((base / 'nbs/sidebar.yml').read_text())['website']['sidebar']
    lines = [f'# {cfg["title"]}', '', f'> {cfg["description"]}', '', f'Source: {cfg["git_url"]}']
    for name, pages in sections(bar['contents']):
        there = [p for p in pages if (base / 'nbs' / p).is_file()]
        if there:
            lines += ['', f'## {name}', '', *(page_line(p, site) for p in there)]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    (Path(sys.argv[1]) / 'llms.txt').write_text(llms(), encoding='utf-8')
