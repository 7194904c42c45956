"The script that measures the library on a GPU, at its tiny size on the CPU"

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

root = Path(__file__).parents[1]
sys.path.insert(0, str(root / 'tools'))
with mock.patch.dict(os.environ):  # it asks for quiet, which the tests after these do not
    import gpu

TINY = ['--device', 'cpu', '--tiny']


def read(folder, part):
    return json.loads((folder / f'{part}.json').read_text(encoding='utf-8'))


@pytest.fixture(autouse=True)
def threads():
    "A tiny run takes one thread"
    before = gpu.torch.get_num_threads()
    yield
    gpu.torch.set_num_threads(before)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('gpu')
    run = subprocess.run(
        [root / 'tools/gpu.sh', folder, *TINY], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return folder, run.stdout


def test_every_part_is_there(whole):
    folder, said = whole
    assert said.startswith('python: ') and 'no GPU' in said.split('\n')[0]
    states = read(folder, 'run')['parts']
    assert list(states) == list(gpu.PARTS) and set(states.values()) == {'done'}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1e6
    for part in gpu.PARTS:
        found = read(folder, part)
        assert found['status'] == 'done' and found['rows'], part
        assert found['machine']['device'] == 'cpu' and found['machine']['tiny']
        table = pd.read_csv(folder / f'{part}.csv')
        assert list(table.columns) == gpu.COLUMNS and len(table) == len(found['rows'])


def test_rows_are_finite_and_have_units(whole):
    for part in gpu.PARTS:
        for row in read(whole[0], part)['rows']:
            assert row['error'] is None, (part, row)
            assert isinstance(row['value'], (int, float)) and math.isfinite(row['value']), row
            assert row['unit'] and row['what']
            if row['unit'] == 'ms' and row['spread'] is not None:
                assert row['repeats'] >= 2 and row['spread'] >= 0


def test_what_was_asked_for_is_measured(whole):
    what = {p: {r['what'] for r in read(whole[0], p)['rows']} for p in gpu.PARTS}
    assert {'pass', 'share of the matrix peak', 'loss against fp32'} <= what['network']
    forms = {(r['precision'], r['compiled']) for r in read(whole[0], 'network')['rows']}
    assert {('fp32', False), ('bf16', False), ('bf16+channels_last', True)} <= forms
    for stage in (1, 3):
        assert f'stage {stage}: training' in what['ddm2']
    assert {'one step: PSNR', 'full chain: PSNR', 'full chain: passes a slice'} <= what['ddm2']
    assert {'all stages: projected'} <= what['ddm2']
    assert {'unet: training', 'diffusion: training', 'unet: share of the network'} <= what[
        'pretrain'
    ]
    assert {'unet_pca', 'wiener (CPU)', 'mppca (CPU)', 'mppca (CPU): projected'} <= what['series']
    assert {f'{name}: PSNR' for name in ('unet_pca', 'wiener', 'mppca')} <= what['series']
    assert any(w.startswith('stage ') for w in what['denoise'])
    assert 'diffdenoise, student: training' in what['diffusion']


def test_cpu_agrees_with_itself(whole):
    "The device of this run is the CPU: two results are one, and a resumed training is the same"
    rows = read(whole[0], 'agreement')['rows'] + read(whole[0], 'resume')['rows']
    same = [r['value'] for r in rows if 'same bits' in r['what']]
    assert len(same) == 13 and all(same)
    off = [r['value'] for r in rows if 'largest' in r['what'] and r['precision'] == 'fp32']
    assert off and not any(off)


def test_failed_part_is_written_down(tmp_path, monkeypatch, capsys):
    def broken(run, report):
        report.add('before', 1.0, 'ms')
        raise RuntimeError('out of memory\nmore lines')

    monkeypatch.setattr(gpu, 'agreement', broken)
    code = gpu.main([str(tmp_path), *TINY, '--parts', 'agreement,series'])
    first = read(tmp_path, 'agreement')
    assert code == 1 and first['status'] == 'failed'
    assert first['error'] == 'RuntimeError: out of memory'
    assert [r['what'] for r in first['rows']] == ['before']
    assert read(tmp_path, 'series')['status'] == 'done'
    assert 'agreement  failed: RuntimeError: out of memory' in capsys.readouterr().out


def test_failed_setting_is_a_row(tmp_path, monkeypatch):
    def part(run, report):
        report.timed('bad', lambda: 1 / 0, precision='bf16')
        report.timed('good', lambda: 2)

    monkeypatch.setattr(gpu, 'denoise', part)
    gpu.main([str(tmp_path), *TINY, '--parts', 'denoise'])
    bad, good = read(tmp_path, 'denoise')['rows']
    assert bad['value'] is None and bad['error'].startswith('ZeroDivisionError')
    assert bad['precision'] == 'bf16' and good['error'] is None and good['value'] >= 0


def test_nothing_begins_after_the_time(tmp_path):
    assert gpu.main([str(tmp_path), *TINY, '--parts', 'network,series', '--minutes', '0']) == 1
    for part in ('network', 'series'):
        found = read(tmp_path, part)
        assert found['status'] == 'not begun: no time left' and not found['rows']


def test_part_that_hangs_is_ended(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, 'tools'); import gpu; gpu.LATE = 0; "
        'gpu.denoise = lambda run, report: time.sleep(600); '
        f"gpu.main([{str(tmp_path)!r}, '--device', 'cpu', '--tiny', '--parts', 'denoise,series', "
        "'--minutes', '0.01'])"
    )
    run = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, check=False)
    assert run.returncode == 1
    parts = read(tmp_path, 'run')['parts']
    assert parts == dict(denoise='running', series='not begun: no time left')


def test_wrong_options(tmp_path, capsys):
    for args in (['--parts', 'nothing', *TINY], ['--device', 'auto']):
        if args == ['--device', 'auto'] and gpu.torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit) as e:
            gpu.main([str(tmp_path), *args])
        assert e.value.code == 2
    assert 'known: network' in capsys.readouterr().err
