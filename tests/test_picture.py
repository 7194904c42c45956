"The first screen: README's command, its picture, and the option that draws"

import re
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import Scan

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / 'tools'))
import picture  # noqa: E402

TEXT = (root / 'README.md').read_text(encoding='utf-8')


def test_the_readme_is_one_screen():
    words = re.sub(r'```.*?```|\(http\S+\)|\]\([^)]*\)', ' ', TEXT, flags=re.S).split()
    assert len(words) < 550 and TEXT.count('![') == 1
    for needed in ('make test', 'make demo', 'pip install', 'not a medical device', 'Evidence:'):
        assert needed in TEXT, needed


def test_the_command_under_the_picture_draws_that_picture():
    words = picture.command()
    assert words[:2] == ['mri-diffusion', 'denoise'] and '--std' in words
    assert f'](nbs/images/{words[words.index("--picture") + 1]})' in TEXT
    shown = matplotlib.image.imread(picture.PICTURE)
    assert shown.shape[1] > 3 * shown.shape[0]  # Four in a row


def ink(path):
    "How many pictures stand side by side: dark columns between white gaps"
    dark = (matplotlib.image.imread(path)[..., :3].min(-1)[60:] < 0.9).mean(0) > 0.5
    return int(np.diff(dark.astype(int), prepend=0).clip(0).sum())


@pytest.mark.parametrize('std', [False, True], ids=['three', 'with std'])
def test_picture_is_written(cli, tmp_path, std):
    t1 = load_t1(downsample=4)
    Scan.from_array(t1.data, t1.affine).save(tmp_path / 'clean.nii.gz')
    cli('simulate', tmp_path / 'clean.nii.gz', tmp_path / 'scan.nii.gz', '--snr', '10')
    more = ['--std', tmp_path / 'std.nii.gz'] if std else []
    scan, out, png = (tmp_path / n for n in ('scan.nii.gz', 'out.nii.gz', 'out.png'))
    assert cli('denoise', scan, out, '--picture', png, *more).code == 0
    assert ink(png) >= 3 + std
    again = cli('denoise', scan, out, '--picture', png, *more)
    assert again.code == 0 and 'has finished before' in again.out


def test_a_picture_that_cannot_be_is_refused(cli, tmp_path):
    t1 = load_t1(downsample=4)
    Scan.from_array(t1.data, t1.affine).save(tmp_path / 'scan.nii.gz')
    scan, out = tmp_path / 'scan.nii.gz', tmp_path / 'out.nii.gz'
    got = cli('denoise', scan, out, '--picture', tmp_path / 'out.jpg')
    assert got.code == 2 and 'must end in .png' in got.err and not out.exists()
    (tmp_path / 'old.png').write_bytes(b'kept')
    got = cli('denoise', scan, out, '--picture', tmp_path / 'old.png')
    assert got.code == 2 and (tmp_path / 'old.png').read_bytes() == b'kept' and not out.exists()
