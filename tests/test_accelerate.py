"Two processes that share each batch end with the weights of one process"

import os
import socket
import subprocess
import sys

import pytest
import torch

from mri_diffusion.app.experiments import run_experiment
from mri_diffusion.core import InputError

SCRIPT = """import os, sys
import numpy as np, torch
from mri_diffusion.scans.patches import PatchDataset
from mri_diffusion.nets.unet import build_network
from mri_diffusion.learn.train import fit
rng = np.random.default_rng(0)
clean = rng.random((20, 20, 20), np.float32)
noisy = clean + .1*rng.standard_normal(clean.shape, np.float32)
data, net = PatchDataset([dict(noisy=noisy, clean=clean)], (8, 8, 8), 64, seed=0), build_network('unet', 'tiny', seed=0)
def objective(model, batch): return (model(batch['noisy']) - batch['clean']).square().mean()
history = fit(net, objective, data, 4, 1e-3, batch=4, device='cpu', seed=0, quiet=True)
found = dict(net=net.state_dict(), world=int(os.environ.get('WORLD_SIZE', 1)))
if os.environ.get('RANK', '0') == '0':
    torch.save(found | dict(loss=history.loss.tolist()), sys.argv[1])
"""


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def test_two_processes_train_as_one(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    # `--cpu` alone starts a single process; `--multi_gpu` starts two, and `device='cpu'` keeps both
    # on the CPU
    launch = [
        '-m',
        'accelerate.commands.launch',
        '--multi_gpu',
        '--num_processes',
        '2',
        '--num_machines',
        '1',
        '--mixed_precision',
        'no',
        '--dynamo_backend',
        'no',
        '--main_process_port',
        str(free_port()),
    ]
    found = {}
    for name, start in (('one', []), ('two', launch)):
        done = subprocess.run(
            [sys.executable, *start, str(tmp_path / 'script.py'), str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | dict(OMP_NUM_THREADS='1'),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found[name] = torch.load(tmp_path / name, weights_only=True)
    assert (found['one']['world'], found['two']['world']) == (1, 2)
    torch.testing.assert_close(
        torch.tensor(found['two']['loss']), torch.tensor(found['one']['loss']), rtol=1e-4, atol=1e-7
    )
    for name, w in found['one']['net'].items():
        torch.testing.assert_close(found['two']['net'][name], w, rtol=0, atol=1e-5)


def test_an_experiment_runs_in_one_process(tmp_path, monkeypatch):
    "Two would do the same work and write the same files"
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='pretrain: an experiment runs in one process, not in 2'):
        run_experiment('pretrain', tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
