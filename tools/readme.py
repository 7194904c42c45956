"README.md from nbs/index.ipynb, without Quarto. `--check` only says whether it is stale."

import re
import sys

import nbformat
from nbconvert import MarkdownExporter
from project import root


def readme():
    "The text of README.md: the index page, links to pages pointing into nbs"
    nb = nbformat.read(root / 'nbs/index.ipynb', 4)
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*hide\b', c.source, re.M)]
    for c in nb.cells:
        c.source = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'\]\((?!\w+:|#|/|\.\./)', '](nbs/', text).replace('](../', '](')
    return (
        '<!-- made from nbs/index.ipynb by `make readme`: edit there -->\n\n' + text.strip() + '\n'
    )


def stale():
    "True if README.md is not what the index page says"
    return (root / 'README.md').read_text(encoding='utf-8') != readme()


if __name__ == '__main__':
    if '--check' not in sys.argv:
        (root / 'README.md').write_text(readme(), encoding='utf-8')
    elif stale():
        sys.exit('README.md is stale: run make readme')
