"What networks, tasks, schedules, samplers, training and inference refuse, each in one clear line"

import numpy as np
import pytest
import torch
from torch import nn

from mri_diffusion.core import InputError
from mri_diffusion.learn.infer import denoise_array, sliding_window
from mri_diffusion.learn.sample import denoise_state, reverse, symmetric_pairs
from mri_diffusion.learn.schedule import fitted_schedule, linear_schedule, make_schedule
from mri_diffusion.learn.tasks import image_task, t1_task
from mri_diffusion.learn.train import fit
from mri_diffusion.nets.blindspot import build_blind_spot
from mri_diffusion.nets.nafnet import build_nafnet
from mri_diffusion.nets.unet import build_network

LINEAR, ONE = linear_schedule(), torch.ones(1, 1)
ITEMS = [dict(x=torch.ones(1))] * 4


def train(data=ITEMS, **settings):
    square = lambda model, batch: model(batch['x']).square().mean()
    return fit(nn.Linear(1, 1), square, data, steps=1, quiet=True, **settings)


@pytest.mark.parametrize(
    'call, said',
    [
        (lambda: build_network('unet', 'tiny', dims=4), '2 or 3'),
        (lambda: build_network('unet', 'huge'), 'unknown; choose from tiny'),
        (lambda: build_network('unet', 'ddm2', 2), "none of size 'ddm2'; choose from diffusion"),
        (lambda: build_network('unet', 'tiny')(torch.zeros(1, 1, 15, 16, 16)), 'multiples of 4'),
        (lambda: build_network('unet', 'tiny', 2)(torch.zeros(1, 1, 6, 8)), r'\(B, C, H, W\)'),
        (lambda: build_blind_spot(side=2), 'odd number'),
        (lambda: build_blind_spot(side=0), 'odd number'),
        (lambda: build_blind_spot('round'), 'unknown; choose from dilated, halfplane'),
        (lambda: build_blind_spot(size='huge'), 'unknown; choose from tiny'),
        (lambda: build_nafnet('huge'), 'unknown; choose from tiny'),
        (lambda: t1_task(snr=0), 'snr=0'),
        (lambda: t1_task(snr=float('nan')), 'snr=nan'),
        (lambda: image_task(noise='pink'), 'unknown; choose from gaussian'),
        (lambda: fitted_schedule([0, np.nan]), 'no positive noise level'),
        (lambda: fitted_schedule([1.0], ramp=0), 'ramp=0'),
        (lambda: make_schedule('quadratic'), 'unknown; choose from linear, cosine'),
        (lambda: make_schedule('fitted'), 'give the noise levels'),
        (lambda: reverse(lambda x, t: x, ONE, 10, LINEAR, steps=0), 'steps=0'),
        (lambda: denoise_state(lambda x, t: x, ONE, 0, LINEAR), 'must be positive'),
        (lambda: denoise_state(lambda x, t: x, ONE, float('nan'), LINEAR), 'must be positive'),
        (lambda: denoise_state(lambda x, t: x, ONE, 1e6, LINEAR), 'beyond the last state'),
        (lambda: symmetric_pairs(lambda e: e, (1,), 0), 'pairs=0'),
        (lambda: sliding_window(lambda x: x, torch.ones(1, 1, 8, 8), overlap=1), 'overlap=1'),
        (lambda: sliding_window(lambda x: x, torch.ones(1, 1, 8, 8), (4, 4, 4)), 'does not fit'),
        (lambda: denoise_array(lambda x: x, np.ones((8, 8))), r'give \(X, Y, Z\)'),
        (lambda: denoise_array([lambda x: x], np.ones((8, 8, 8, 2))), '1 denoisers for 2 volumes'),
        (lambda: train(bacth=8), 'unknown setting bacth; known: batch'),
        (lambda: train(batch=0), 'batch=0'),
        (lambda: train(decay='cliff'), "decay='cliff'"),
        (lambda: train(precision='fp8'), "precision='fp8'"),
        (lambda: train(ema=1), 'between 0 and 1'),
        (lambda: train(device='abacus'), "device='abacus'"),
        (lambda: train([]), 'data set is empty'),
    ],
)
def test_bad_input_is_one_clear_line(call, said):
    with pytest.raises(InputError, match=said) as e:
        call()
    assert '\n' not in str(e.value)


def test_a_last_row_without_a_logged_loss_can_be_resumed(tmp_path):
    "A callback's number at a step that is not logged; the interruption comes there"
    seen = []

    def watch(state):
        seen.append(state['step'])
        if state['step'] == 3 and len(seen) == 3:
            raise KeyboardInterrupt
        return dict(number=1.0)

    usual = dict(folder=tmp_path, callbacks=[watch], log_every=100, checkpoint_every=2, ema=0)

    def run():
        loss = lambda model, batch: model(batch['x']).square().mean()
        return fit(nn.Linear(1, 1), loss, ITEMS, steps=5, quiet=True, **usual)

    with pytest.raises(KeyboardInterrupt):
        run()
    history = run()
    assert history.step.tolist() == [1, 2, 3, 4, 5] and seen == [1, 2, 3, 3, 4, 5]
