"Where memory runs out, every network halves its window, and a note says so"

import pytest
import torch

import mri_diffusion.learn.infer as infer
from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import generator
from mri_diffusion.noise.models import add_rician_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri


@pytest.mark.parametrize('name', ['r2r', 'noise2score', 'diffdenoise'])
def test_a_halved_window_is_a_note_of_every_network(name, monkeypatch):
    "However deep in a method windows are denoised"
    table = make_gradients({1000: 6}, n_b0=1)
    clean = simulate_dmri(*table, shape=(40, 40, 8), voxel_size=None)[0]
    noisy = clean.with_data(add_rician_noise(clean.data, 60.0, generator(0)))
    how = {} if name == 'r2r' else dict(window=16)
    if name != 'r2r':
        noisy = noisy.with_data(noisy.data[..., 0])
    blended, asked = infer._blended, []

    def small(predict, volume, roi, overlap, batch, device):
        asked.append(tuple(roi))
        if tuple(roi) == asked[0]:
            raise torch.OutOfMemoryError('pretended')
        return blended(predict, volume, roi, overlap, batch, device)

    denoiser = Denoiser(name, 'tiny', quiet=True, **how).fit(noisy)
    free = denoiser.denoise(noisy)
    monkeypatch.setattr(infer, '_blended', small)
    found = denoiser.denoise(noisy)
    sides = ' x '.join(map(str, asked[-1]))
    assert asked[-1] != asked[0]
    assert [n for n in found.meta['notes'] if n.startswith(f'memory ran out: windows of {sides}')]
    assert not [n for n in free.meta['notes'] if 'memory' in n]
