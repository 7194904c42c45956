"""Peak memory of commands: at most three times the scan as float32, and what one slab takes.

Each command runs in a process of its own, once on a scan of a few thousand voxels (Python, torch,
imports) and once on a larger one. The peak is what the system counts for that process.
"""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.core import generator
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

pytestmark = pytest.mark.usefixtures('cold')
TIMES, REST = 3, 200  # Of the scan as float32; MiB: slabs in float64, a network's windows, FFTs
UNIT = 2**20 if sys.platform == 'darwin' else 2**10  # Of ru_maxrss in bytes, as a part of a MiB

# Begins with a small process, since a child counts what its parent held when it was made
LAUNCH = """
import os, subprocess, sys
with open('said', 'w') as said:
    child = subprocess.Popen(sys.argv[1:], stdout=said)
_, status, used = os.wait4(child.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak(folder, *arguments):
    "Peak of a command in MiB"
    command = [Path(sys.executable).with_name('mri-diffusion'), *arguments, '--force', '-q']
    told = dict(os.environ, OMP_NUM_THREADS='1', MRI_DIFFUSION_QUIET='1')
    run = [sys.executable, '-c', LAUNCH, *map(str, command)]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, env=told)
    assert done.returncode == 0, done.stderr
    assert (folder / 'said').stat().st_size or (folder / 'out.nii').is_file()  # it did its work
    (folder / 'out.nii').unlink(missing_ok=True)
    return int(done.stdout.split()[-1]) / UNIT


def make(folder, shape, volumes):
    "clean.nii and noisy.nii, int16, their tables and a mask"
    bvals, bvecs = make_gradients({1000: volumes - 1}, 1) if volumes > 1 else make_gradients({}, 1)
    clean, _ = simulate_dmri(bvals, bvecs, shape, voxel_size=None)
    data = clean.data if volumes > 1 else clean.data.reshape(shape)
    folder.mkdir()
    for name, x in (('clean', data), ('noisy', add_noise(data, 30.0, gen=generator(0)))):
        nib.save(nib.Nifti1Image(np.rint(x).astype(np.int16), clean.affine), folder / f'{name}.nii')
        if volumes > 1:
            np.savetxt(folder / f'{name}.bval', bvals[None], '%g')
            np.savetxt(folder / f'{name}.bvec', bvecs.T, '%.6f')
    nib.save(nib.Nifti1Image(clean.mask.astype(np.uint8), clean.affine), folder / 'mask.nii')
    return 4 * data.size / 2**20


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "name -> folder and MiB of the scan as float32"
    top = tmp_path_factory.mktemp('memory')
    wanted = dict(
        series=((96, 96, 40), 33),
        small=((40, 40, 8), 33),
        volume=((160,) * 3, 1),
        dot=((40,) * 3, 1),
    )
    return {name: (top / name, make(top / name, *how)) for name, how in wanted.items()}


NLMEANS = 'nlmeans', '--sigma', '30', '--set', 'block_radius', '1'
COMMANDS = dict(
    noise=('noise', 'noisy.nii'),
    simulate=('simulate', 'clean.nii', 'out.nii', '--snr', '20'),
    blur=('denoise', 'noisy.nii', 'out.nii', '--method', 'blur'),
    evaluate=('evaluate', 'noisy.nii', '--clean', 'clean.nii', '--mask', 'mask.nii'),
)
OF_SERIES = COMMANDS | dict(evaluate=(*COMMANDS['evaluate'], '--noisy', 'noisy.nii'))
SERIES = ('denoise', 'noisy.nii', 'out.nii', '--residual', 'residual.nii', '--method')
OF_SERIES |= dict(
    wiener=(*SERIES, 'wiener'), unet_pca=(*SERIES, 'unet_pca', '--set', 'copies', '1')
)
OF_VOLUMES = COMMANDS | dict(nlmeans=('denoise', 'noisy.nii', 'out.nii', '--method', *NLMEANS))


def check(scans, command, small, large):
    folder, size = scans[large]
    over = peak(folder, *command) - peak(scans[small][0], *command)
    rest = 400 if 'wiener' in command else REST  # Of it, covariances of the voxels of a slab
    assert over <= TIMES * size + rest, f'{over:.0f} MiB, {over / size:.1f} times the scan'


@pytest.mark.parametrize('name', OF_SERIES)
def test_series_in_three_times_its_memory(scans, name):
    check(scans, OF_SERIES[name], 'small', 'series')


@pytest.mark.parametrize('name', OF_VOLUMES)
def test_volume_in_three_times_its_memory(scans, name):
    check(scans, OF_VOLUMES[name], 'dot', 'volume')


def test_a_peak_is_seen(tmp_path):
    "The measurement itself: 300 MiB are asked for and seen"
    code = "import sys; x = b'1' * (int(sys.argv[1]) << 20)"
    runs = [[sys.executable, '-c', LAUNCH, sys.executable, '-c', code, n] for n in ('1', '300')]
    small, large = (int(subprocess.check_output(run, cwd=tmp_path)) / UNIT for run in runs)
    assert 290 < large - small < 320
