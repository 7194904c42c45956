"""`python tools/methods.py`: write the table of methods that `mri-diffusion methods` prints.

To make the table from the methods themselves, all of them are imported, which takes seconds. `make
export` writes it into the package; a test compares it with what the methods say.
"""

import json
import sys

from project import root

FILE = root / 'mri_diffusion/methods/table.json'


def text():
    "The table, without methods of other packages, as it stands in the file"
    from mri_diffusion.core import plain
    from mri_diffusion.methods import registry

    registry.entry_points = lambda **_: []
    return json.dumps(plain(registry.methods_table()), indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    new = text()
    if '--check' in sys.argv and new != FILE.read_text(encoding='utf-8'):
        sys.exit('run python tools/methods.py')
    FILE.write_text(new, encoding='utf-8')
