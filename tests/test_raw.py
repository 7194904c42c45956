"Raw k-space as the input of a command, and of the experiment on repeats"

import h5py
import numpy as np
import pytest
import torch

from mri_diffusion.app.experiments import run_experiment
from mri_diffusion.core import InputError
from mri_diffusion.noise.kspace import apply_mask, coil_maps
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.fourier import fft2c
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def m4raw(tmp_path_factory):
    "Three repetitions in the layout of M4Raw: 48 of 64 lines acquired"
    d = tmp_path_factory.mktemp('m4raw')
    t1 = load_t1(downsample=3).data[1:65, 6:70, 28:32]
    padded = np.pad(t1, [(0, 64 - t1.shape[0]), (0, 64 - t1.shape[1]), (0, 0)])
    image = torch.as_tensor(padded).permute(2, 0, 1)
    k, gen = fft2c(coil_maps((64, 64), 4) * image[:, None]), torch.Generator().manual_seed(0)
    seen = (torch.arange(64) >= 8) & (torch.arange(64) < 56)
    for r in (1, 2, 3):
        noise = 0.03 * torch.randn(k.shape, dtype=torch.complex64, generator=gen)
        noisy = apply_mask(k + noise, seen, -1)
        with h5py.File(d / f'2022061003_T10{r}.h5', 'w') as f:
            f['kspace'] = noisy.numpy()
            f['ismrmrd_header'] = b''
    return d


def test_zero_filled_lines_are_left_out(m4raw, cli, tmp_path):
    options = '--method diffdenoise --preset tiny --residual'.split()
    files = m4raw / '2022061003_T101.h5', tmp_path / 'out.nii.gz'
    done = cli('denoise', *files, *options, tmp_path / 'r.nii.gz')
    assert done.code == 0, done.err
    out, residual = Scan.load(tmp_path / 'out.nii.gz'), Scan.load(tmp_path / 'r.nii.gz')
    assert out.shape == (48, 64, 4)
    assert out.voxel_size[0] == pytest.approx(64 / 48 * out.voxel_size[1], rel=1e-4)
    assert 'left out' in (tmp_path / 'out.json').read_text() and np.isfinite(residual.data).all()


def test_repeats_of_m4raw(m4raw, tmp_path):
    settings = dict(data=str(m4raw / '2022061003_T102.h5'), told=False, context=0)
    found = run_experiment('diffdenoise_repeats', tmp_path / 'run', settings, quiet=True)
    rows = {r['row']: r for r in found['rows']}
    assert found['shape'] == [48, 64, 4, 3]
    assert {'noisy', 'Noise2Noise', 'diffdenoise, one repeat alone'} <= set(rows)
    noisy = rows['noisy']
    assert noisy['leaky'] > noisy['left_out'] and noisy['corrected'] > noisy['left_out']


def test_broken_raw_file(m4raw, cli, tmp_path):
    (tmp_path / 'x_T101.h5').write_bytes((m4raw / '2022061003_T101.h5').read_bytes()[:500])
    done = cli('denoise', tmp_path / 'x_T101.h5', tmp_path / 'out.nii.gz', '--method', 'blur')
    assert done.code == 2 and done.err.count('\n') == 1 and not (tmp_path / 'out.nii.gz').exists()
    settings = dict(data=_two(m4raw, tmp_path))
    with pytest.raises(InputError, match='at least 3'):
        run_experiment('diffdenoise_repeats', tmp_path / 'run', settings, quiet=True)


def _two(m4raw, folder):
    "Only two of the repetitions"
    for r in (1, 2):
        raw = (m4raw / f'2022061003_T10{r}.h5').read_bytes()
        (folder / f'2022061004_T10{r}.h5').write_bytes(raw)
    return str(folder / '2022061004_T101.h5')
