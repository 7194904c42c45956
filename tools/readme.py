"""README.md from nbs/index.ipynb, without Quarto. `--check` only says whether it is stale.

What the site's first page has beside it is marked <!-- site only -->: the map of the course, whose
picture is that of nbs/start.ipynb.
"""

import base64
import json
import re
import sys

import nbformat
from nbconvert import MarkdownExporter
from project import root

MAP = root / 'nbs/images/course.png'


def readme():
    "The text of README.md: the index page, links to pages pointing into nbs"
    nb = nbformat.read(root / 'nbs/index.ipynb', 4)
    nb.cells = [c for c in nb.cells if '<!-- site only -->' not in c.source]
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*hide\b', c.source, re.M)]
    for c in nb.cells:
        c.source = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'\]\((?!\w+:|#|/|\.\./)', '](nbs/', text).replace('](../', '](')
    return (
        '<!-- made from nbs/index.ipynb by `make readme`: edit there -->\n\n' + text.strip() + '\n'
    )


def course_map():
    "The first picture among the stored outputs of nbs/start.ipynb, PNG bytes"
    cells = json.loads((root / 'nbs/start.ipynb').read_text(encoding='utf-8'))['cells']
    shown = [o.get('data', {}).get('image/png') for c in cells for o in c.get('outputs', [])]
    return base64.b64decode(''.join(next(filter(None, shown))))


def stale():
    "True if README.md or the map of the course is not what the pages say"
    text = (root / 'README.md').read_text(encoding='utf-8')
    return text != readme() or MAP.read_bytes() != course_map()


if __name__ == '__main__':
    if '--check' not in sys.argv:
        (root / 'README.md').write_text(readme(), encoding='utf-8')
        MAP.write_bytes(course_map())
    elif stale():
        sys.exit('README.md is stale: run make readme')
