"What is read is checked: nothing is unpickled, headers are not believed, settings have ranges"

import pickle
from pathlib import Path

import pytest

from mri_diffusion.core import InputError


class Marker:
    "Unpickling this makes a file"

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def train(folder, steps=6, resume=True, stop=None):
    "A small training, perhaps interrupted after `stop` steps; its weights"
    import torch

    from mri_diffusion.learn.train import fit

    def loss(net, batch):
        return (net(batch['x']) + 0.1 * torch.randn(1)).square().mean()

    def interrupt(state):
        if state['step'] == stop:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1)
    data = [dict(x=torch.randn(2)) for _ in range(8)]
    how = dict(batch=2, checkpoint_every=1, quiet=True, device='cpu', resume=resume)
    fit(net, loss, data, steps, 1e-2, folder, callbacks=[interrupt], **how)
    return torch.cat([p.detach().ravel() for p in net.parameters()])


FOREIGN = (
    'custom_checkpoint_0.pkl random_states_0.pkl optimizer.bin scaler.pt scheduler.bin '
    'pytorch_model.bin sampler.bin dl_state_dict.bin average.pkl train.pkl'
).split()


def test_a_resumed_training_unpickles_nothing_and_ends_in_the_same_bits(tmp_path):
    import torch

    whole = train(tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'cut', stop=4)
    checkpoint, marker = tmp_path / 'cut/checkpoint', tmp_path / 'marker'
    for name in FOREIGN:
        assert not (checkpoint / name).exists()
        (checkpoint / name).write_bytes(pickle.dumps(Marker(marker)))
    assert torch.equal(train(tmp_path / 'cut'), whole) and not marker.exists()
    pickle.loads(pickle.dumps(Marker(marker)))
    assert marker.exists()  # the marker works


@pytest.mark.parametrize(
    'name', ['model', 'optimizer', 'random_0', 'scaler', 'average', 'train.json']
)
def test_a_pickle_in_the_place_of_a_file_of_the_checkpoint_is_refused(tmp_path, name):
    marker, name = tmp_path / 'marker', name if '.' in name else f'{name}.safetensors'
    train(tmp_path / 'm', steps=3)
    assert (tmp_path / 'm/checkpoint' / name).is_file()
    (tmp_path / 'm/checkpoint' / name).write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(InputError) as e:
        train(tmp_path / 'm', steps=3)
    assert name in str(e.value) and '\n' not in str(e.value) and not marker.exists()


def test_weights_of_a_checkpoint_that_are_not_finite_or_of_another_kind_are_refused(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    train(tmp_path / 'm', steps=3)
    path = tmp_path / 'm/checkpoint/model.safetensors'
    good = load_file(path)
    bad = {
        'not finite': {k: v * torch.nan for k, v in good.items()},
        'does not fit': {k: v.double() for k, v in good.items()},
    }
    for said, numbers in bad.items():
        save_file(numbers, path)
        with pytest.raises(InputError, match=said):
            train(tmp_path / 'm', steps=3)
