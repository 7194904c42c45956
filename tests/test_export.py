"A network as ONNX: equal to torch, free of torch, whole or not at all"

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason="needs pip install 'mri_diffusion[onnx]'")
pytest.importorskip('onnxruntime', reason="needs pip install 'mri_diffusion[onnx]'")

from mri_diffusion.app import export  # noqa: E402
from mri_diffusion.methods.pretrained import denoise_volume  # noqa: E402
from mri_diffusion.methods.shipped import load_shipped  # noqa: E402
from mri_diffusion.scans.nifti import Scan  # noqa: E402

root = Path(__file__).resolve().parent.parent
SCRIPT = root / 'nbs/howto/denoise_onnx.py'
KINDS = 'unet', 'diffusion'


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    "Both networks of the package, written once"
    d = tmp_path_factory.mktemp('onnx')
    return {k: (d / f'{k}.onnx', export.export_network(k, d / f'{k}.onnx')) for k in KINDS}


@pytest.fixture(scope='module')
def opened(networks):
    "Both, as onnxruntime computes them"
    return {k: export.open_onnx(path, threads=1) for k, (path, _) in networks.items()}


@pytest.fixture
def graphs_at_hand(networks, monkeypatch):
    "The exporter of torch gives the graph that it gave before: for tests of what happens to it"

    def graph(net):
        model = onnx.load(networks[kinds[sum(p.sum().item() for p in net.parameters())]][0])
        del model.metadata_props[:]
        return model

    kinds = {sum(p.sum().item() for p in load_shipped(k)[0].parameters()): k for k in KINDS}
    monkeypatch.setattr(export, '_graph', graph)


SHAPES = (4, 4, 4), (16, 16, 16), (28, 12, 40), (8, 64, 20)
LEVELS = (1.0,), (0.05, 0.5, 1.0)


@pytest.mark.parametrize('i', range(len(SHAPES)), ids=lambda i: str(SHAPES[i]))
@pytest.mark.parametrize('k', range(len(KINDS)), ids=lambda k: KINDS[k])
def test_the_file_computes_what_torch_computes(opened, i, k):
    "Each network at each shape; each number of levels with each network and with each shape"
    net, run = load_shipped(KINDS[k])[0], opened[KINDS[k]]
    shape, levels = SHAPES[i], LEVELS[(i + k) % 2]
    for snr in (1.0, 20.0, 100.0):
        assert export.largest_difference(net, run, shape, levels, snr) < 1e-4


def test_the_level_is_used(opened):
    run = opened['diffusion']
    x = np.random.default_rng(0).normal(10, 1, (1, 1, 16, 16, 16)).astype(np.float32)
    full, none = (run(x, np.full(1, v, np.float32)) for v in (1.0, 0.01))
    assert np.abs(full - none).max() > 0.1


@pytest.mark.parametrize('kind', KINDS)
def test_what_the_file_says_of_itself(networks, kind):
    path, made = networks[kind]
    model = onnx.load(path)
    said = {p.key: p.value for p in model.metadata_props}
    record = json.loads((root / f'mri_diffusion/weights/{kind}/config.json').read_text())
    assert said['weights_sha256'] == made['weights_sha256'] == record['sha256']
    assert said['method'] == kind and said['sides_multiple_of'] == '4'
    assert [o.version for o in model.opset_import] == [export.OPSET] == [made['opset']]
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }
    image = ['batch', 1, 'X', 'Y', 'Z']
    assert shapes == dict(noisy=image, level=['batch'], denoised=image)


def test_the_file_names_no_folder_of_this_machine(networks):
    raw = networks['unet'][0].read_bytes()
    assert str(root).encode() not in raw and b'site-packages' not in raw and b'.py"' not in raw


def test_another_process_writes_the_same_file(networks, tmp_path):
    code = f'import sys; from mri_diffusion.app.cli import main; sys.exit(main({["export", "unet"]}'
    words = [sys.executable, '-c', code + f' + [{str(tmp_path / "u.onnx")!r}]))']
    run = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == '' and run.stdout.count('\n') == 1, run.stderr
    assert (tmp_path / 'u.onnx').read_bytes() == networks['unet'][0].read_bytes()


@pytest.mark.parametrize('signed', [False, True])
def test_the_script_does_without_torch(networks, made, tmp_path, signed):
    "In a process where torch cannot be imported it gives what the library gives"
    noisy, sigma = Scan.load(made / 'noisy.nii.gz'), 0.05
    level = 0.3 * noisy.data.max() * signed
    scan = noisy.with_data((noisy.data - level).astype(np.float32))
    scan.save(tmp_path / 'n.nii.gz')
    (tmp_path / 'torch.py').write_text('raise ImportError("no torch here")\n')
    code = 'import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='
    code += '"__main__"); assert "torch" not in sys.modules and "mri_diffusion" not in sys.modules'
    words = [SCRIPT, networks['unet'][0], 'n.nii.gz', 'd.nii.gz', '--sigma', str(sigma)]
    words += ['--signed'] * signed
    call = [sys.executable, '-c', code, *map(str, words)]
    env = dict(PYTHONPATH=str(tmp_path), PATH='/usr/bin', OMP_NUM_THREADS='1')
    run = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr
    kind = 'additive' if signed else 'magnitude'
    how = dict(kind=kind, copies=2, strength=0.91, quiet=True)
    wanted = denoise_volume(load_shipped('unet')[0], scan.data, sigma, **how)
    off = np.abs(Scan.load(tmp_path / 'd.nii.gz').data - wanted) / sigma
    assert off.mean() < 1e-4 and off.max() < 2e-2, (off.mean(), off.max())


def test_blocks_of_the_script_fit_together(networks, made, monkeypatch):
    sys.path.insert(0, str(SCRIPT.parent))
    import denoise_onnx

    x = Scan.load(made / 'noisy.nii.gz').data.astype(np.float32)
    x = np.concatenate([x, x[::-1], x])
    whole = denoise_onnx.denoise(str(networks['unet'][0]), x, 0.05)
    monkeypatch.setattr(denoise_onnx, 'BLOCK', 32)
    pieces = denoise_onnx.denoise(str(networks['unet'][0]), x, 0.05)
    assert np.abs(whole - pieces).max() < 0.05 * 1e-2


WRONG = {
    'nlmeans a.onnx': 'no network that can be exported',
    'nafnet a.onnx': 'no network that can be exported',
    'nosuch a.onnx': 'unknown',
    'unet a.pb': 'must end in .onnx',
    'unet there.onnx': '--force',
    'unet folder.onnx --force': 'is a folder',
    'unet a.onnx --model nowhere': 'no such model folder',
    'unet a.onnx --model folder.onnx': 'not a finished model',
    'unet a.onnx --model model': 'from random weights',
    'diffusion a.onnx --model model': 'holds a model of unet',
    'unet there.nii.gz/a.onnx': 'cannot make this folder',
}


@pytest.mark.parametrize('words', WRONG)
def test_a_wrong_export_says_one_line(cli, files, monkeypatch, words):
    monkeypatch.chdir(files)
    Path('there.onnx').write_text('mine')
    Path('there.nii.gz').write_text('mine')
    Path('folder.onnx').mkdir()
    before = sorted(files.rglob('*'))
    got = cli('export', *words.split())
    assert got.code == 2 and WRONG[words] in got.err and got.err.count('\n') == 1, got.err
    assert sorted(files.rglob('*')) == before and Path('there.onnx').read_text() == 'mine'


@pytest.mark.parametrize('package', ['onnx', 'onnxscript', 'onnxruntime'])
def test_a_missing_package_names_the_extra(cli, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    got = cli('export', 'unet', tmp_path / 'new' / 'a.onnx')
    assert got.code == 2 and 'mri_diffusion[onnx]' in got.err and got.err.count('\n') == 1
    assert not (tmp_path / 'new' / 'a.onnx').exists()


def test_a_file_that_computes_something_else_is_not_kept(
    cli, tmp_path, monkeypatch, graphs_at_hand
):
    monkeypatch.setattr(export, 'largest_difference', lambda *_: 0.01)
    got = cli('export', 'unet', tmp_path / 'a.onnx')
    assert got.code == 1 and 'differs from torch' in got.err and not list(tmp_path.iterdir())


def test_force_replaces_and_json_says_what_was_made(cli, tmp_path, graphs_at_hand):
    (tmp_path / 'a.onnx').write_text('old')
    got = cli('export', 'diffusion', tmp_path / 'a.onnx', '--force', '--json')
    said = json.loads(got.out)
    assert said['bytes'] == (tmp_path / 'a.onnx').stat().st_size > 4e6 and said['opset'] == 18
    assert (
        re.fullmatch('[0-9a-f]{64}', said['weights_sha256']) and said['largest_difference'] < 1e-4
    )
