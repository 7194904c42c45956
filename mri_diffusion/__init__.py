"""Learn, run and trust diffusion-model denoising of MRI.

The names below are the public surface, written by hand: they stay, or are deprecated for one minor
version first. Each is imported when it is first used, so that `import mri_diffusion` is fast.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A thread of libgomp (OpenMP of GNU) that waits for the others looks 300,000 times before it gives
# its core away: beside busy processes a training is slower by up to a hundred. With 1000 looks it is
# not, and as fast alone (tools/load.py). libgomp reads this when torch is imported.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & set(os.environ):
    os.environ['GOMP_SPINCOUNT'] = '1000'

_HOME = {  # name -> module that defines it
    'MriDiffusionError': 'core',
    'InputError': 'core',
    'show_triptych': 'viz',
    'Scan': 'scans.nifti',
    'load_bids': 'scans.bids',
    'load_t1': 'phantoms.heads',
    'make_gradients': 'phantoms.heads',
    'simulate_dmri': 'phantoms.heads',
    'add_noise': 'noise.models',
    'correct_bias': 'noise.rician_bias',
    'estimate_sigma': 'noise.sigma',
    'describe_noise': 'noise.describe',
    'build_network': 'nets.unet',
    'make_schedule': 'learn.schedule',
    'fit': 'learn.train',
    'Method': 'methods.method',
    'get_method': 'methods.registry',
    'methods_table': 'methods.registry',
    'register': 'methods.registry',
    'psnr': 'judge.scores',
    'evaluate': 'judge.scores',
    'tensor_fit': 'judge.tensors',
    'lesion_test': 'judge.lesions',
    'audit': 'judge.audit',
    'Denoiser': 'app.denoiser',
    'denoise': 'app.denoiser',
    'Result': 'app.result',
    'run_experiment': 'app.experiments',
}
__all__ = ['__version__', *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    found = getattr(import_module(f'{__name__}.{_HOME[name]}'), name)
    globals()[name] = found
    return found


def __dir__():
    return sorted(__all__)


if TYPE_CHECKING:
    from .app.denoiser import Denoiser as Denoiser
    from .app.denoiser import denoise as denoise
    from .app.experiments import run_experiment as run_experiment
    from .app.result import Result as Result
    from .core import InputError as InputError
    from .core import MriDiffusionError as MriDiffusionError
    from .judge.audit import audit as audit
    from .judge.lesions import lesion_test as lesion_test
    from .judge.scores import evaluate as evaluate
    from .judge.scores import psnr as psnr
    from .judge.tensors import tensor_fit as tensor_fit
    from .learn.schedule import make_schedule as make_schedule
    from .learn.train import fit as fit
    from .methods.method import Method as Method
    from .methods.registry import get_method as get_method
    from .methods.registry import methods_table as methods_table
    from .methods.registry import register as register
    from .nets.unet import build_network as build_network
    from .noise.describe import describe_noise as describe_noise
    from .noise.models import add_noise as add_noise
    from .noise.rician_bias import correct_bias as correct_bias
    from .noise.sigma import estimate_sigma as estimate_sigma
    from .phantoms.heads import load_t1 as load_t1
    from .phantoms.heads import make_gradients as make_gradients
    from .phantoms.heads import simulate_dmri as simulate_dmri
    from .scans.bids import load_bids as load_bids
    from .scans.nifti import Scan as Scan
    from .viz import show_triptych as show_triptych
