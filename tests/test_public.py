"The public surface: names that are written once, by hand, and imported when they are used"

import subprocess
import sys
from pathlib import Path

import pytest

import mri_diffusion

NAMES = [n for n in mri_diffusion.__all__ if n != '__version__']
PAGE = Path(__file__).resolve().parent.parent / 'nbs' / 'docs' / 'public.ipynb'


def test_it_is_small():
    assert len(NAMES) <= 28 and len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_a_name_is_what_its_module_defines(name):
    found = getattr(mri_diffusion, name)
    assert (
        found.__name__ == name and found.__module__ == f'mri_diffusion.{mri_diffusion._HOME[name]}'
    )
    assert found.__doc__ and name in dir(mri_diffusion)


@pytest.mark.parametrize('name', NAMES)
def test_the_page_of_the_library_uses_it(name):
    assert f'mri.{name}' in PAGE.read_text(encoding='utf-8')


def test_a_name_that_is_none_is_refused():
    with pytest.raises(AttributeError, match='no attribute'):
        mri_diffusion.no_such_name  # noqa: B018


@pytest.mark.usefixtures('cold')
def test_importing_the_package_loads_nothing():
    heavy = ('numpy', 'torch', 'nibabel', 'pandas', 'matplotlib')
    code = f'import sys, mri_diffusion; print([m for m in {heavy} if m in sys.modules])'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == '[]'
