"The weights in the package: their digests, what they score, and scans that are hard"

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mri_diffusion import Denoiser, InputError, denoise
from mri_diffusion.app.cli import main
from mri_diffusion.core import generator, read_json
from mri_diffusion.judge.scores import psnr
from mri_diffusion.methods.pretrained import apply_net, denoise_volume, strength_map, walk
from mri_diffusion.methods.shipped import load_shipped, shipped
from mri_diffusion.nets.unet import count_parameters
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import Scan

DIGEST = dict(
    diffusion='14e5383c56746559966679e7f9315b18a250c52753ec8df1c7ca104780d67ac5',
    unet='d64ab6b31496cbc10bf0eb7fb2642dac25e176d2e2581a2f3073d73a365f485c',
)
GOLDEN = dict(diffusion=24.692, unet=24.941)  # dB inside the brain, see `head`


@pytest.fixture(scope='module')
def head():
    clean = np.maximum(load_t1(downsample=6).data, 0).astype(np.float32)
    mask = clean > 0.2 * clean.max()
    sigma = float(np.median(clean[mask])) / 8
    return clean, add_noise(clean, sigma, 'rician', gen=generator(3)), sigma, mask


def test_both_networks_are_there_and_small():
    assert sorted(shipped()) == ['diffusion', 'unet']
    files = [p for folder in shipped().values() for p in folder.iterdir()]
    assert sum(p.stat().st_size for p in files) < 5_000_000
    assert len({count_parameters(load_shipped(k)[0]) for k in shipped()}) == 1  # equal terms


@pytest.mark.parametrize('kind', DIGEST)
def test_the_weights_are_those_of_the_card(kind):
    folder = shipped()[kind]
    found = hashlib.sha256((folder / 'weights.safetensors').read_bytes()).hexdigest()
    assert found == DIGEST[kind] == read_json(folder / 'config.json')['sha256']
    card = (folder / 'card.md').read_text(encoding='utf-8')
    assert found in card and 'BSD-2-Clause' in card and 'Limits' in card and kind in card


@pytest.mark.parametrize('kind', GOLDEN)
def test_golden_score(head, kind):
    clean, noisy, sigma, mask = head
    x = denoise_volume(load_shipped(kind)[0], noisy, sigma, quiet=True)
    assert abs(psnr(x, clean, mask) - GOLDEN[kind]) < 0.02


@pytest.mark.parametrize('kind', DIGEST)
def test_better_than_a_filter_at_tiny_size(head, kind):
    clean, noisy, sigma, mask = head
    ours, filtered = (Denoiser(m, quiet=True).denoise(noisy, sigma) for m in (kind, 'nlmeans'))
    assert psnr(ours.denoised.data, clean, mask) > psnr(filtered.denoised.data, clean, mask)
    assert ours.meta['preset'] == 'shipped' and 'patch' not in ours.meta['config']


def test_mirrored_copies(head, tmp_path, capsys):
    clean, noisy, sigma, mask = head
    by = lambda **how: denoise(noisy, sigma, method='unet', quiet=True, **how).denoised.data
    one, two, eight = (by(copies=n) for n in (1, 2, 8))
    assert np.array_equal(two, by()) and np.array_equal(eight, by(flips=True))
    dB = [psnr(x, clean, mask) for x in (one, two, eight)]
    assert dB[0] < dB[1] < dB[2]
    for n in (3, 0, 9):  # refused also where nothing would be denoised
        with pytest.raises(InputError, match='copies'):
            denoise(clean + 1, 1e-3 * sigma, method='unet', copies=n, quiet=True)
    Scan.from_array(noisy).save(tmp_path / 'noisy.nii.gz')
    words = ['denoise', tmp_path / 'noisy.nii.gz', tmp_path / 'out.nii.gz', '--set', 'copies', 3]
    assert main(words) == 2 and 'copies=3; 1, 2, 4 or 8' in capsys.readouterr().err
    assert not (tmp_path / 'out.nii.gz').exists()


def test_strength(head, tmp_path, capsys):
    clean, noisy, sigma, mask = head
    by = lambda **how: denoise(noisy, sigma, method='unet', quiet=True, **how).denoised.data
    most, usual, least = (by(strength=s) for s in (1, 0.91, 0.6))
    assert np.array_equal(usual, by())
    far = [np.sqrt(np.mean((x - noisy)[mask] ** 2)) for x in (most, usual, least)]
    assert far[0] > far[1] > far[2] and psnr(most, clean, mask) > psnr(least, clean, mask)
    assert psnr(most, clean, mask) - psnr(usual, clean, mask) < 0.3
    for s in (0.4, 2, True, np.nan):
        with pytest.raises(InputError, match='strength'):
            denoise(clean, sigma, method='unet', strength=s, quiet=True)
    Scan.from_array(noisy).save(tmp_path / 'noisy.nii.gz')
    words = ['denoise', tmp_path / 'noisy.nii.gz', tmp_path / 'out.nii.gz', '--set', 'strength', 3]
    assert main(words) == 2 and 'strength' in capsys.readouterr().err
    assert not (tmp_path / 'out.nii.gz').exists()


def test_strength_is_one_in_air():
    "Nothing can be lost there; near the object the network sees both"
    rng = np.random.default_rng(0)
    x = np.zeros((72, 32, 32), np.float32)
    x[:20, 4:28, 4:28] = 60.0
    net, _ = load_shipped('unet')
    for kind in ('magnitude', 'additive'):
        signed = (x + rng.normal(size=x.shape)).astype(np.float32)
        y = signed if kind == 'additive' else np.hypot(signed, rng.normal(size=x.shape))
        apply = lambda s, y=y, kind=kind: denoise_volume(net, y, 1.0, kind, strength=s)
        full, less = apply(1.0), apply(0.6)
        assert np.abs(full - less)[44:].mean() < 5e-3  # in air, beyond what the network sees
        block = np.s_[:20, 6:26, 6:26]
        assert np.std((less - x)[block]) > 1.5 * np.std((full - x)[block])


def test_a_map_of_strength_by_blocks_mirrored_and_in_steps():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(33, 30, 45)).astype(np.float32)
    z[:, :, :20] += 20
    by, (net, _) = strength_map(z, 0.8, 'additive'), load_shipped('unet')
    whole, pieces = (apply_net(net, z, strength=by, voxels=v, quiet=True) for v in (10**6, 30_000))
    assert np.abs(whole - pieces).max() < 1e-3 and by.min() < 0.81 and by.max() == 1
    other = apply_net(net, z[::-1].copy(), strength=by[::-1], quiet=True)[::-1]
    assert np.corrcoef((whole - z).ravel(), (other - z).ravel())[0, 1] > 0.9
    assert np.array_equal(walk(net, z, 1, by), whole)
    assert np.isfinite(walk(load_shipped('diffusion')[0], z, 3, by)).all()
    for wrong in (by[1:], np.full(z.shape, 0.3), np.full(z.shape, np.nan), by[..., None]):
        with pytest.raises(InputError, match='strength of shape'):
            apply_net(net, z, strength=wrong)


def test_no_method_named(head, tmp_path, capsys):
    clean, noisy, sigma, mask = head
    Scan.from_array(noisy).save(tmp_path / 'noisy.nii.gz')
    words = ['denoise', tmp_path / 'noisy.nii.gz', tmp_path / 'out.nii.gz', '--sigma', sigma]
    assert main(words) == 0
    assert 'note: method: unet' in capsys.readouterr().err
    record = read_json(tmp_path / 'out.json')
    assert record['Method'] == 'unet' and record['Notes'][0].startswith('method: unet')
    by_name = denoise(noisy, sigma, method='unet', quiet=True).denoised.data
    saved = Scan.load(tmp_path / 'out.nii.gz').data
    assert np.abs(saved - by_name).max() < 1e-5 * clean.max()
    assert main(words) == 0  # done before
    assert 'finished before' in capsys.readouterr().out


def test_the_default_of_a_series_compares_its_volumes(head):
    series = np.stack([head[1][..., 9:21]] * 6, -1)
    rng = np.random.default_rng(0)
    series = np.abs(series + head[2] * rng.normal(size=series.shape)).astype(np.float32)
    assert denoise(series, quiet=True).meta['method'] == 'mppca'
    table = np.r_[0, np.full(5, 1000.0)], np.eye(3)[np.arange(6) % 3]
    diffusion = denoise(Scan.from_array(series, None, *table), quiet=True)
    assert diffusion.meta['method'] == 'unet_pca' and diffusion.std is None
    few = denoise(series[..., :3], head[2], quiet=True)
    assert few.meta['method'] == 'unet' and few.denoised.shape == (*series.shape[:3], 3)


def hard():
    rng = np.random.default_rng(0)
    noise = lambda *shape: np.abs(10 + rng.normal(size=shape) + 1j * rng.normal(size=shape))
    yield 'one slice', noise(24, 24, 1), 1.0
    yield 'eight voxels a side', noise(8, 8, 8), 1.0
    yield 'odd sides', noise(13, 7, 9), 1.0
    yield 'constant', np.full((12, 12, 12), 5.0), 1.0
    yield 'empty', np.zeros((12, 12, 12)), 1.0
    yield 'sigma above the signal', noise(12, 12, 12), 1000.0
    yield 'signed', rng.normal(size=(12, 12, 12)), 1.0
    yield 'tiny unit', 1e-9 * noise(12, 12, 12), 1e-9
    yield 'large unit', 1e9 * noise(12, 12, 12), 1e9


@pytest.mark.parametrize('kind', DIGEST)
@pytest.mark.parametrize('name, x, sigma', hard(), ids=[n for n, *_ in hard()])
def test_hard_scans_give_a_sound_result(kind, name, x, sigma):
    out = Denoiser(kind, quiet=True).denoise(x.astype(np.float32), sigma).denoised.data
    assert out.shape == x.shape and np.isfinite(out).all()
    assert np.abs(out).max() <= 1.5 * np.abs(x).max()
    if name in ('constant', 'empty'):
        assert np.array_equal(out, x.astype(np.float32))


def box(sigma=8.0):
    rng = np.random.default_rng(0)
    v = np.zeros((32, 36, 28))
    v[6:26, 6:30, 5:23] = 100
    e = rng.normal(size=(2, *v.shape))
    return v, np.abs(v + sigma * e[0] + 1j * sigma * e[1]).astype(np.float32)


@pytest.mark.parametrize('told', [500.0, 1e30])
def test_a_level_far_above_the_signal_is_said(told):
    found = denoise(box()[1], told, quiet=True)
    assert np.isfinite(found.denoised.data).all()
    assert any('but the scan shows' in n for n in found.meta['notes'])


def test_a_level_that_is_right_needs_no_note():
    assert not any(
        'but the scan shows' in n for n in denoise(box()[1], 8, quiet=True).meta['notes']
    )


def test_an_image_of_two_values():
    found = denoise(box()[1] > 50, 8.0, quiet=True).denoised
    assert found.shape == (32, 36, 28) and 0 <= found.data.min() <= found.data.max() < 2


def test_no_fine_tuning_where_a_blanked_background_looks_like_correlation():
    clean, noisy = box()
    blanked = np.where(clean > 0, noisy, 0)
    plain, tuned = (denoise(blanked, 8.0, tune=n, quiet=True, method='unet') for n in (0, 4))
    assert any('not fine-tuned' in n and 'exactly zero' in n for n in tuned.meta['notes'])
    assert np.array_equal(plain.denoised.data, tuned.denoised.data)


def test_what_is_no_scan_is_refused():
    for x, said in ((np.full((8, 8, 8), 'a'), 'real or complex'), ([[1.0, 2.0]], 'list')):
        with pytest.raises(InputError, match=said):
            denoise(x, 1.0)


def test_what_is_asked_of_a_training_is_refused():
    x = np.ones((12, 12, 12), np.float32)
    for how in (dict(steps=5), dict(preset='tiny'), dict(size='small')):
        with pytest.raises(InputError, match='leave'):
            denoise(x, 1.0, method='unet', **how)
    with pytest.raises(InputError, match='probes 1 or more'):
        Denoiser('unet').denoise(x, 1.0, needs_std=True)


def test_missing_and_damaged_weights_say_so(tmp_path, monkeypatch):
    for name in ('config.json', 'weights.safetensors'):
        (tmp_path / 'unet').mkdir(exist_ok=True)
        (tmp_path / 'unet' / name).write_bytes((shipped()['unet'] / name).read_bytes()[:-9])
    import mri_diffusion.methods.shipped as module

    whole = shipped()
    x = np.ones((12, 12, 12), np.float32)
    swapped = tmp_path / 'swapped'
    swapped.mkdir()
    for p in whole['diffusion'].iterdir():
        (swapped / p.name).write_bytes(p.read_bytes())
    both = {'unet': swapped}
    monkeypatch.setattr(module, 'shipped', lambda: both)
    with pytest.raises(InputError, match='not the weights of unet'):
        load_shipped('unet')
    both['unet'] = tmp_path / 'unet'
    for kind, said in (('unet', 'config.json'), ('diffusion', 'no such weights')):
        with pytest.raises(InputError, match=said) as e:
            denoise(x, 1.0, method=kind)
        assert '\n' not in str(e.value)


def test_training_begins_with_the_weights(head, tmp_path):
    clean, noisy, sigma, mask = head
    for name, data in (('clean', clean), ('noisy', noisy)):
        Scan.from_array(data).save(tmp_path / f'{name}.nii.gz')
    pair = ['train', 'unet', tmp_path / 'noisy.nii.gz', '--clean', tmp_path / 'clean.nii.gz']
    for folder, more in (('m', []), ('s', ['--from', 'scratch'])):
        assert main([*pair, '--out', tmp_path / folder, '--steps', '3', *more, '-q']) == 0
    found = {f: read_json(tmp_path / f / 'config.json') for f in 'ms'}
    assert found['m']['config']['begin'] == 'shipped' and found['s']['config']['begin'] == 'scratch'
    assert found['m']['parameters'] > 1_000_000 > found['s']['parameters']
    x = Denoiser.load(tmp_path / 'm', quiet=True).denoise(noisy, sigma).denoised.data
    assert psnr(x, clean, mask) > psnr(noisy, clean, mask) + 4
    refused = [*pair, '--out', tmp_path / 'r', '--from', 'shipped', '--set', 'size', 'small', '-q']
    assert main(refused) == 2 and not (tmp_path / 'r').exists()
    assert main([*pair, '--out', tmp_path / 'r', '--from', 'theirs']) == 2


def test_the_wheel_takes_them():
    setup = (Path(__file__).parents[1] / 'setup.py').read_text(encoding='utf-8')
    assert "'weights/*/*'" in setup
