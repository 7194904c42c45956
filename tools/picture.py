"""`python tools/picture.py FOLDER`: the picture of the README, by the command under it.

FOLDER holds dwi.nii.gz with its .bval and .bvec: that of dcm_qa_philips (BSD-2), or a scan of yours.
Six minutes of a core for a series of 128 x 128 x 60 x 33; the picture goes to nbs/images.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from project import root

PICTURE = root / 'nbs/images/denoised.png'


def command():
    "Words of the first command of the README that draws"
    text = (root / 'README.md').read_text(encoding='utf-8')
    return shlex.split(re.search(r'^mri-diffusion denoise .*--picture.*$', text, re.M)[0])


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    words, source = command(), Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as d:
        for f in source.glob(words[2].split('.')[0] + '.*'):
            shutil.copy(f, d)
        words[0] = str(Path(sys.executable).with_name(words[0]))
        subprocess.run(words, cwd=d, check=True)
        shutil.copy(Path(d) / words[words.index('--picture') + 1], PICTURE)
    print(PICTURE)
