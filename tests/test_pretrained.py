"Trained weights: read or refused, applied in pieces, and the training that makes them"

import json
import os
import re
from types import SimpleNamespace
from unittest import mock

import nbformat
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from mri_diffusion.app.experiments import experiments_folder
from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.learn.muon import Muon, orthogonal
from mri_diffusion.methods import pretrained
from mri_diffusion.methods.pretrained import (
    apply_memory,
    apply_net,
    denoise_volume,
    load_net,
    save_net,
)
from mri_diffusion.nets.unit_unet import CONFIGS, make_net
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def net():
    "Tiny, and it does something"
    net = make_net('tiny', 1)
    torch.nn.init.normal_(net.body.last.weight, std=0.05, generator=generator(1))
    return net.eval()


@pytest.fixture
def folder(net, tmp_path):
    return save_net(tmp_path / 'w', net, 'tiny', dict(seed=1))


def noise(*shape, at=10.0, seed=0):
    return np.random.default_rng(seed).normal(at, 1, shape).astype(np.float32)


@pytest.mark.parametrize('name, parameters', [('u32', 1_184_288), ('tiny', 23_432)])
def test_sizes_and_that_brightness_drops_out(name, parameters):
    net, x = make_net(name), torch.randn(1, 1, 16, 16, 16, generator=generator(0))
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert torch.equal(net(x), x)
    torch.nn.init.normal_(net.body.last.weight, std=0.1, generator=generator(1))
    with torch.no_grad():
        assert torch.allclose(net(x + 50), net(x) + 50, atol=1e-3)
        assert (net(x) - x).std() > 0.01


def test_networks_refuse_in_one_line():
    for call in (lambda: make_net('u99'), lambda: make_net('tiny')(torch.zeros(1, 1, 7, 8, 8))):
        with pytest.raises(InputError) as e:
            call()
        assert '\n' not in str(e.value)


def test_a_seed_leaves_the_common_generator_alone():
    torch.manual_seed(5)
    a = torch.rand(1)
    torch.manual_seed(5)
    make_net('tiny', 3)
    assert torch.equal(torch.rand(1), a)


@pytest.mark.parametrize('shape', [(8, 8), (5, 40), (40, 5)])
def test_an_update_is_orthogonal(shape):
    g = torch.randn(shape, generator=generator(2))
    s = torch.linalg.svdvals(orthogonal(g))
    assert s.min() > 0.3 and s.max() < 1.25
    w = torch.nn.Parameter(torch.zeros(shape))
    w.grad = g
    Muon([w], lr=0.1).step()
    limit = 0.125 * max(1, shape[0] / shape[1]) ** 0.5
    assert torch.linalg.svdvals(w.detach()).max() < limit and (w * g).sum() < 0


def test_weights_come_back_in_half_precision(net, folder):
    for path in (folder, folder / 'weights.safetensors', str(folder)):
        again, facts = load_net(path)
        assert facts == dict(net='tiny', seed=1) and not again.training
        for p, q in zip(again.parameters(), net.parameters()):
            assert torch.equal(p, q.half().float())


def change(folder, **new):
    "Other fields in config.json"
    config = read_json(folder / 'config.json') | new
    (folder / 'config.json').write_text(json.dumps(config))


def rewrite(folder, numbers):
    "Other tensors, with their digest"
    import hashlib

    data = numbers if isinstance(numbers, bytes) else save(numbers)
    (folder / 'weights.safetensors').write_bytes(data)
    change(folder, sha256=hashlib.sha256(data).hexdigest())


def first(folder, f):
    "The weights, one of them changed"
    numbers = load_file(folder / 'weights.safetensors')
    key = sorted(numbers)[0]
    return numbers | {key: f(numbers[key])}


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


SPOILT = {
    'weights missing': (lambda d: (d / 'weights.safetensors').unlink(), 'weights.safetensors is'),
    'config missing': (lambda d: (d / 'config.json').unlink(), 'config.json is missing'),
    'weights truncated': (lambda d: cut(d / 'weights.safetensors', 9000), 'truncated'),
    'weights empty': (lambda d: cut(d / 'weights.safetensors', 0), 'truncated'),
    'config truncated': (lambda d: cut(d / 'config.json', 30), 'config.json'),
    'newer format': (lambda d: change(d, format=2), 'a newer version'),
    'older format': (lambda d: change(d, format=0), 'an older version'),
    'no format': (lambda d: change(d, format='x'), 'format'),
    'unknown network': (lambda d: change(d, net='u99'), 'not known to this version'),
    'other network': (lambda d: change(d, net='u32'), 'does not fit the network'),
    'not safetensors': (lambda d: rewrite(d, b'\x80\x04K\x01.'), 'not a .safetensors file'),
    'not finite': (lambda d: rewrite(d, first(d, lambda x: x * np.nan)), 'does not fit'),
    'whole numbers': (lambda d: rewrite(d, first(d, lambda x: x.int())), 'does not fit'),
    'other shape': (lambda d: rewrite(d, first(d, lambda x: x[:1])), 'does not fit'),
}


@pytest.mark.parametrize('how', SPOILT)
def test_spoilt_files_are_refused_in_one_line(folder, how):
    spoil, said = SPOILT[how]
    spoil(folder)
    with pytest.raises(InputError, match=re.escape(said)) as e:
        load_net(folder)
    assert '\n' not in str(e.value)


def test_no_network_there(tmp_path):
    with pytest.raises(InputError, match='no network here'):
        load_net(tmp_path / 'nowhere')


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    net = make_net('tiny')
    with torch.no_grad():
        net.body.last.weight.fill_(1e6)  # beyond half precision
    with pytest.raises(InputError, match='not finite'):
        save_net(tmp_path / 'w', net, 'tiny')
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('shape', [(75, 18, 9), (20, 61, 50), (64, 64, 3)])
def test_pieces_give_the_whole(net, shape):
    z = noise(*shape)
    whole, pieces = apply_net(net, z), apply_net(net, z, voxels=10_000, quiet=True)
    assert whole.shape == shape and np.abs(whole - z).max() > 0.05
    assert np.abs(whole - pieces).max() < 1e-4


def test_the_margin_is_wide_enough_for_the_shipped_size():
    net, z = make_net('u32'), noise(96, 12, 12)
    torch.nn.init.normal_(net.body.last.weight, std=0.05, generator=generator(1))
    whole, pieces = apply_net(net, z), apply_net(net, z, voxels=8000, quiet=True)
    assert np.abs(whole - z).std() > 0.05 and np.abs(whole - pieces).max() < 2e-3


@pytest.mark.parametrize('shape', [(512, 512, 512), (1000, 1000, 4), (4, 4, 4), (3000, 20, 20)])
def test_blocks_cover_once_and_are_bounded(shape):
    blocks = pretrained._blocks(shape, 2_000_000)
    cores = [np.prod([b - a for a, b, _, _ in k]) for k in blocks]
    assert sum(cores) == np.prod(shape)
    assert max(np.prod([d - c for *_, c, d in k]) for k in blocks) <= 2e6


def test_memory_is_bounded_by_the_block():
    net = make_net('u32')
    whole = lambda n: 4 * 8 * n**3
    assert apply_memory(net, (512,) * 3) - whole(512) < 2e9
    assert apply_memory(net, (512,) * 3) < 1.5 * (apply_memory(net, (160,) * 3) + whole(512))


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 40, 40), (40, 40, 1), (8, 8, 8), (9, 3, 2)])
@pytest.mark.parametrize('kind', ['magnitude', 'additive'])
def test_small_volumes(net, shape, kind):
    x = noise(*shape)
    for copies in (1, 8):
        y = denoise_volume(net, x, 1.0, kind, copies=copies)
        assert y.shape == shape and y.dtype == np.float32 and np.abs(y - x).max() < 3


@pytest.mark.parametrize('kind', ['magnitude', 'additive'])
@pytest.mark.parametrize('value', [0.0, 7.0])
def test_a_constant_stays(net, kind, value):
    x = np.full((16, 16, 8), value, np.float32)
    assert np.array_equal(denoise_volume(net, x, 1.0, kind), x)


def test_no_noise_changes_nothing(net):
    x = noise(16, 16, 8)
    assert np.array_equal(denoise_volume(net, x, 0.0), x)
    sigma = np.ones(x.shape)
    sigma[:8] = 0
    y = denoise_volume(net, x, sigma)
    assert np.array_equal(y[:8], x[:8]) and np.abs(y[8:] - x[8:]).max() > 0.01


def test_sigma_above_the_signal(net):
    rng = np.random.default_rng(3)
    x = np.hypot(rng.normal(0.02, 1, (16, 16, 16)), rng.normal(0, 1, (16, 16, 16)))
    for sigma in (1.0, 50.0, 1e6):
        y = denoise_volume(net, x, sigma)
        assert np.isfinite(y).all() and (y >= 0).all()
    with_noise = denoise_volume(net, x, 1.0)
    assert with_noise.mean() < x.mean()  # the floor of the magnitude is taken out


def test_negative_values(net):
    x = noise(16, 16, 16, at=0.0)
    with pytest.raises(InputError, match="kind='additive'"):
        denoise_volume(net, x, 1.0)
    assert np.isfinite(denoise_volume(net, x, 1.0, 'additive')).all()
    ripples = noise(16, 16, 16, at=30.0)
    ripples[::5, 0, 0] = -2
    assert (denoise_volume(net, ripples, 1.0) >= 0).all()


@pytest.mark.parametrize('factor', [1e-6, 1e6])
@pytest.mark.parametrize('kind', ['magnitude', 'additive'])
def test_the_unit_does_not_matter(net, factor, kind):
    x = noise(16, 16, 8)
    y, z = denoise_volume(net, x, 1.0, kind), denoise_volume(net, x * factor, factor, kind)
    assert np.abs(z / factor - y).max() < 1e-3


def test_the_inverse_takes_out_the_bias():
    "A network that gives the mean: what comes back is the signal, also near the floor"

    class Mean(torch.nn.Module):
        divisor = 1

        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, level):
            return x.mean().expand_as(x)

    rng, shape = np.random.default_rng(4), (40, 40, 40)
    for coils, signal in ((1, 1.0), (1, 3.0), (8, 2.0), (32, 10.0)):
        parts = rng.normal(0, 1, (2 * coils, *shape))
        parts[0] += signal
        x = np.sqrt((parts**2).sum(0))
        y = denoise_volume(Mean(), 5 * x, 5.0, n_coils=coils)
        assert abs(y.mean() / 5 - signal) < 0.06, (coils, signal, y.mean() / 5)


HOT = noise(8, 8, 8)
HOT[0, 0, 0] = np.nan
BAD = {
    'two dimensions': (noise(8, 8), 1.0, {}, '(X, Y, Z)'),
    'four dimensions': (noise(8, 8, 8, 2), 1.0, {}, '(X, Y, Z)'),
    'no voxels': (noise(0, 8, 8), 1.0, {}, '(0, 8, 8)'),
    'complex': (noise(8, 8, 8) + 1j, 1.0, {}, 'real numbers'),
    'not finite': (HOT, 1.0, {}, '1 voxels are not finite'),
    'negative sigma': (noise(8, 8, 8), -1.0, {}, 'not negative'),
    'sigma nan': (noise(8, 8, 8), np.nan, {}, 'finite'),
    'other map': (noise(8, 8, 8), np.ones((8, 8, 7)), {}, 'a map (8, 8, 8)'),
    'kind': (noise(8, 8, 8), 1.0, dict(kind='poisson'), "'additive'"),
    'copies': (noise(8, 8, 8), 1.0, dict(copies=3), 'copies=3'),
    'a yes': (noise(8, 8, 8), 1.0, dict(copies=True), 'copies=True'),
    'coils': (noise(8, 8, 8), 1.0, dict(n_coils=0), 'n_coils'),
}


@pytest.mark.parametrize('what', BAD)
def test_bad_input_is_refused_in_one_line(net, what):
    x, sigma, how, said = BAD[what]
    with pytest.raises(InputError, match=re.escape(said)) as e:
        denoise_volume(net, x, sigma, **how)
    assert '\n' not in str(e.value)


def run(folder, **params):
    "The cells of the experiment in this process; what they left"
    nb = nbformat.read(experiments_folder() / 'pretrain.ipynb', 4)
    names = dict(__name__='pretrain')
    with mock.patch.dict(os.environ, MRI_DIFFUSION_QUIET='1'):
        for c in (c for c in nb.cells if c.cell_type == 'code'):
            exec(c.source, names)
            if 'parameters' in c.metadata.get('tags', []):
                names |= dict(params, out=str(folder))
    return SimpleNamespace(folder=folder, state=load_file(folder / 'state.safetensors'), **params)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Four steps at once"
    return run(tmp_path_factory.mktemp('a') / 'run', steps=4, anneal=2)


def test_a_training_leaves_weights_that_load(trained):
    net, facts = load_net(trained.folder)
    assert facts['net'] == 'tiny' and facts['steps'] == 4 and facts['seed'] == 0
    for k, p in net.named_parameters():
        assert torch.equal(p, trained.state[f'net.{k}'].half().float())
    card = (trained.folder / 'card.md').read_text()
    said = ('SNR 2 to 60', 'seed | 0', 'invented anatomies', 'machine', 'float16')
    assert all(s in card for s in said) and str(trained.folder) not in card
    assert (trained.folder / 'loss.csv').read_text().startswith('step,minutes,loss\n1,')
    assert read_json(trained.folder / 'result.json')['bytes'] < 60_000


def test_an_interrupted_training_ends_in_the_same_bits(trained, tmp_path):
    half = run(tmp_path / 'half', steps=2, anneal=-1)
    assert not same(half.state, trained.state)
    (tmp_path / 'b').mkdir()
    (half.folder / 'state.safetensors').rename(tmp_path / 'b/state.safetensors')
    on = run(tmp_path / 'b', steps=4, anneal=2)
    assert same(on.state, trained.state)
    weights = [(f / 'weights.safetensors').read_bytes() for f in (on.folder, trained.folder)]
    assert weights[0] == weights[1]


def test_the_number_of_threads_does_not_matter(trained, tmp_path):
    assert same(run(tmp_path / 'run', steps=4, anneal=2, workers=3).state, trained.state)


def test_another_seed_gives_another_file(trained, tmp_path):
    assert not same(run(tmp_path / 'c', steps=1, anneal=-1, seed=1).state, trained.state)


def test_a_state_of_another_training_is_refused(trained, tmp_path):
    state = str(trained.folder / 'state.safetensors')
    damaged = tmp_path / 'damaged.safetensors'
    damaged.write_bytes((trained.folder / 'state.safetensors').read_bytes()[:500])
    foreign = tmp_path / 'foreign.safetensors'
    save_file(dict(x=torch.zeros(1)), foreign)
    tries = [
        (dict(start=state, seed=1), 'seed 0, not 1'),
        (dict(start=state, batch=3), 'batch 2, not 3'),
        (dict(start=state, steps=2), 'give more steps'),
        (dict(start=state, steps=4), 'give more steps'),
        (dict(start=str(damaged)), 'not a state that can be read'),
        (dict(start=str(foreign)), 'no step'),
        (dict(start='nowhere'), 'no such file'),
        (dict(preset='huge'), 'choose from smoke'),
        (dict(net='u99'), 'choose from u32'),
        (dict(side=9), 'multiple of 2'),
        (dict(device='tpu'), 'give cpu, or cuda'),
        (dict(data=str(tmp_path)), 'no scan'),
        (dict(clean=str(trained.folder)), 'give data'),
        (dict(clean='nowhere', data=str(tmp_path)), 'nowhere: no such folder'),
    ]
    for k, (params, said) in enumerate(tries):
        with pytest.raises(InputError, match=re.escape(said)) as e:
            run(tmp_path / str(k), **params)
        assert '\n' not in str(e.value)
        assert not (tmp_path / str(k) / 'weights.safetensors').exists()


def test_the_card_names_every_scan(tmp_path):
    import nibabel as nib

    folder = tmp_path / 'scans/mine'
    folder.mkdir(parents=True)
    nib.save(nib.Nifti1Image(abs(noise(40, 40, 30)), np.eye(4)), folder / 'image.nii.gz')
    (folder / 'LICENSE.source').write_text('\nCC0, made | here\n')
    found = run(tmp_path / 'run', steps=1, data=str(tmp_path / 'scans'))
    card = (found.folder / 'card.md').read_text()
    assert '| mine | 0.008 | CC0, made / here | ' in card and str(tmp_path) not in card


def test_a_first_network_denoises_the_sources_of_a_second(trained, tmp_path):
    folder = tmp_path / 'scans/t1_mprage'  # one that is told to be noisy
    folder.mkdir(parents=True)
    image = 0.5 + 0.1 * noise(24, 24, 24)
    Scan.from_array(image).save(folder / 'image.nii.gz')
    data = dict(steps=1, anneal=-1, data=str(tmp_path / 'scans'))
    plain = run(tmp_path / 'plain', **data)
    first = run(tmp_path / 'first', **data, clean=str(trained.folder))
    assert not same(plain.state, first.state)
    digest = read_json(trained.folder / 'config.json')['sha256'][:16]
    assert f'by the weights {digest}' in (first.folder / 'card.md').read_text()
    assert 'sources denoised before | no' in (plain.folder / 'card.md').read_text()


def test_presets_name_networks_that_exist():
    text = (experiments_folder() / 'pretrain.ipynb').read_text()
    assert set(re.findall(r"net='(\w+)'", text)) <= set(CONFIGS)
