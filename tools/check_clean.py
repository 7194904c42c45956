"Notebooks are clean, the library is what they export. Works in a copy: nothing here is changed."

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from project import copy_to, root


def generated(base):
    "Path -> content of every notebook and every module"
    paths = [*base.glob('nbs/**/*.ipynb'), *base.glob('mri_diffusion/**/*.py')]
    return {
        str(p.relative_to(base)): p.read_bytes()
        for p in paths
        if '.ipynb_checkpoints' not in p.parts
    }


def differences():
    "Files that nbdev_clean or nbdev_export would change, add or remove"
    with TemporaryDirectory() as d:
        copy = copy_to(Path(d).resolve())
        before = generated(copy)
        for command in ('nbdev_clean', 'nbdev_export'):
            subprocess.run([str(Path(sys.executable).parent / command)], cwd=copy, check=True)
        after = generated(copy)
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


if __name__ == '__main__':
    wrong = differences()
    if wrong:
        sys.exit('not clean or not exported (run make export): ' + ', '.join(wrong))
    if os.environ.get('CI'):
        sys.exit(subprocess.run(['git', 'diff', '--exit-code', '--stat'], cwd=root).returncode)
