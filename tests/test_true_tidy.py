"Leftovers, pages that show what files are called, a request that is repeated, folders for one"

import json
import os
import signal
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mri_diffusion.app.jobs import denoise_scan, train_method
from mri_diffusion.app.result import Result
from mri_diffusion.core import LOCK, InputError, atomic_path, locked, read_json, temporary_folder
from mri_diffusion.judge.leaderboard import board_html
from mri_diffusion.judge.report import write_report
from mri_diffusion.scans.nifti import Scan

MARK = '<img src=x onerror=mark(1)> | `code` | **bold** [a](b) \u202e'


class Tags(HTMLParser):
    "Names and attributes of the tags of a page"

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def harmless(text):
    "Nothing of the mark has become a tag; its words are there as text"
    tags = Tags(text).seen
    assert not [a for _, a in tags if any(k.startswith('on') for k in a)]
    assert not [a for t, a in tags if t == 'img' and not a['src'].startswith('data:image/png')]
    assert '&lt;img src=x onerror=mark(1)&gt;' in text
    return tags


@pytest.fixture
def marked():
    "A result whose every word comes from outside"
    x = np.random.default_rng(0).rayleigh(5, (20, 20, 8)).astype(np.float32)
    x[5:15, 5:15] += 60
    noisy = Scan.from_array(x)
    words = dict(method=MARK, preset=MARK, config={MARK: MARK}, source=Path(MARK))
    return Result(noisy, noisy, 5.0, meta=dict(seed=0, notes=[MARK, f'{MARK}.nii.gz'], **words))


def test_a_note_is_text_where_jupyter_shows_a_result(marked):
    tags = harmless(marked._repr_html_())
    assert [t for t, _ in tags] == ['img', 'ul', 'li', 'li']
    assert '\u202e' not in marked._repr_html_()  # which would turn the line round


def test_a_note_is_text_in_the_report(marked, tmp_path):
    page = write_report(marked, tmp_path / 'r.html').read_text(encoding='utf-8')
    harmless(page)
    assert '\u202e' not in page and '| `code` |' in page


def test_a_method_of_another_package_is_text_on_the_leaderboard():
    board = pd.DataFrame([dict(rank=1, method=MARK, standing=MARK, psnr=30.0)])
    page = board_html({MARK: board}, {'psnr': (MARK, 1)}, [MARK], MARK)
    harmless(page)
    assert page.count('&lt;img') == 6  # title, heading, two cells, note, legend


# -------------------------------------------------------------------------------------- leftovers
def python(code, *words, **kw):
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kw,
    )


WRITE = """
import os, signal, sys, time
from mri_diffusion.core import atomic_path, temporary_folder
with temporary_folder('report') as folder, atomic_path(sys.argv[1]) as p:
    p.write_text('half')
    (folder / 'scan').write_text('of a person')
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path, monkeypatch):
    place, target = tmp_path / 'tmp', tmp_path / 'result.txt'
    place.mkdir()
    monkeypatch.setenv('TMPDIR', str(place))
    monkeypatch.setattr(tempfile, 'tempdir', None)
    run = python(WRITE, target)
    left = Path(run.stdout.readline().strip())
    part = [p for p in tmp_path.iterdir() if p.name.startswith('.tmp-')]
    with temporary_folder('report'), atomic_path(target):
        assert left.exists() and all(p.exists() for p in part)  # it lives: not ours to remove
    run.kill()
    run.communicate()
    assert len(part) == 1 and part[0].exists() and (left / 'scan').exists()
    (place / 'mri_diffusion-report-mine').mkdir()  # not a name that we give
    with temporary_folder('report'), atomic_path(target, force=True):
        assert not left.exists() and not part[0].exists()
    assert [p.name for p in place.iterdir()] == ['mri_diffusion-report-mine']


TERMINATED = """
import sys, time
import mri_diffusion.app.report_notebook as page
from mri_diffusion.app.cli import main

def slow(notebook, run, packed, quiet):
    print('packed', flush=True)
    time.sleep(60)

page.run_experiment = slow
sys.exit(main(sys.argv[1:]))
"""


def test_a_report_that_is_stopped_leaves_no_scan_behind(made, tmp_path):
    place = tmp_path / 'tmp'
    place.mkdir()
    words = [made / 'noisy.nii.gz', tmp_path / 'd.nii.gz', '--method', 'blur', '--sigma', '0.05']
    run = python(
        TERMINATED, 'denoise', *words, '--report', tmp_path / 'r.html', '-q',
        env=os.environ | dict(TMPDIR=str(place)),
    )  # fmt: skip
    assert run.stdout.readline() == 'packed\n'
    assert [p.name for p in place.iterdir() if p.name.startswith('mri_diffusion-report-')]
    run.send_signal(signal.SIGTERM)
    err = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and err.count('\n') == 1 and 'interrupted' in err, err
    assert not [p for p in place.iterdir() if 'report' in p.name]
    assert not list(tmp_path.glob('.tmp-*')) and (tmp_path / 'd.nii.gz').exists()


def test_a_checkpoint_that_was_not_finished_goes(tmp_path):
    import torch

    from mri_diffusion.core import MriDiffusionError
    from mri_diffusion.learn import train

    items = [dict(x=torch.ones(1, 4))] * 4
    loss = lambda model, batch: model(batch['x']).square().mean()
    how = dict(steps=2, folder=tmp_path, batch=2, device='cpu', quiet=True)
    (tmp_path / 'checkpoint.tmp').mkdir()
    (tmp_path / 'checkpoint.tmp' / 'half').write_text('')
    train.fit(torch.nn.Linear(4, 1), loss, items, **how)
    assert not (tmp_path / 'checkpoint.tmp').exists() and (tmp_path / 'checkpoint').is_dir()

    class Full(train.Average):
        def save(self, path):
            Path(path).write_text('half')
            raise Exception('No space left on device')  # safetensors says it so

    with pytest.MonkeyPatch.context() as m:
        m.setattr(train, 'Average', Full)
        with pytest.raises(MriDiffusionError, match='No space left'):
            train.fit(torch.nn.Linear(4, 1), loss, items, **how | dict(steps=3, resume=False))
    assert not (tmp_path / 'checkpoint.tmp').exists() and (tmp_path / 'checkpoint').is_dir()


# ---------------------------------------------------------------------------- the same request again
def stamp(folder):
    return {p.name: p.stat().st_mtime_ns for p in Path(folder).iterdir() if p.is_file()}


def test_a_finished_denoising_is_done_and_another_is_refused(files, cli):
    scan, out, res = files / 'noisy.nii.gz', files / 'd.nii.gz', files / 'r.nii.gz'
    words = ['denoise', scan, out, '--method', 'nlmeans', '--residual', res]
    first = cli(*words)
    before = stamp(files)
    again = cli(*words)
    assert first.code == again.code == 0 and 'nothing done' in again.out
    assert 'nothing done' not in first.out and stamp(files) == before
    assert json.loads(cli(*words, '--json').out)['finished_before'] is True
    assert cli(*words[:-2]).code == 0  # fewer outputs: they are there
    others = {
        'method nlmeans, not blur': [*words[:3], '--method', 'blur'],
        'block_radius 3, not 2': [*words, '--set', 'block_radius=2'],
        'seed 0, not 5': [*words, '--seed', '5'],
        'sigma None, not 0.1': [*words, '--sigma', '0.1'],
        'bias_field keep, not correct': [*words, '--bias-field', 'correct'],
        'other mask': [*words, '--mask', files / 'mask.nii.gz'],
        'exists; use --force': [*words, '--noise-map', files / 'new.nii.gz'],
    }
    for said, w in others.items():
        got = cli(*w)
        assert got.code == 2 and said in got.err and got.err.count('\n') == 1, (said, got)
    assert stamp(files) == before
    forced = cli(*words, '--force')
    assert forced.code == 0 and 'nothing done' not in forced.out and stamp(files) != before


def test_a_changed_input_or_output_is_not_done(files, cli):
    scan, out = files / 'noisy.nii.gz', files / 'd.nii.gz'
    words = ['denoise', scan, out, '--method', 'blur']
    assert cli(*words).code == 0
    whole = out.read_bytes()
    Scan.load(scan).save(out, force=True)
    got = cli(*words)
    assert got.code == 2 and 'changed since it was written' in got.err
    out.write_bytes(whole)
    assert 'nothing done' in cli(*words).out
    (files / 'noisy.json').write_text('{"EchoTime": 0.09}')
    assert 'other scan' in cli(*words).err
    out.with_name('d.json').write_text('{"Method": "blur"}')  # of an older version: not known
    assert 'exists; use --force' in cli(*words).err
    scan.unlink()
    assert 'no such file' in cli(*words).err


def test_a_network_that_learned_from_the_scan_is_done_too(files, cli):
    words = ['denoise', files / 'noisy.nii.gz', files / 'd.nii.gz', '--method', 'noise2score']
    words += ['--preset', 'tiny', '--set', 'steps=2', '--model', files / 'own', '-q']
    assert cli(*words).code == 0
    again = cli(*words)
    assert again.code == 0 and 'nothing done' in again.out
    model = read_json(files / 'own' / 'config.json')
    other = cli('train', 'noise2score', files / 'noisy.nii.gz', '--out', files / 'own', '--seed',
                '3', '--preset', 'tiny', '--steps', '2', '--force', '-q')  # fmt: skip
    assert other.code == 0 and read_json(files / 'own' / 'config.json') != model
    got = cli(*words)
    assert got.code == 2 and 'another model' in got.err


def test_the_result_of_a_repeated_call_is_the_one_on_the_disk(files):
    how = (files / 'noisy.nii.gz', files / 'd.nii.gz', 'nlmeans')
    one, two = denoise_scan(*how), denoise_scan(*how)
    assert two.meta['finished_before'] and 'finished_before' not in one.meta
    assert np.array_equal(one.denoised.data, two.denoised.data) and one.level == two.level
    assert two.meta['notes'] == one.meta['notes'] and two.meta['config'] == one.meta['config']


# -------------------------------------------------------------------------------- one in a folder
HOLD = """
import sys, time
from mri_diffusion.core import locked
with locked(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""


def test_a_second_process_in_a_folder_is_refused_until_the_first_is_gone(
    files, cli, tmp_path, cold
):
    places = [tmp_path / n for n in ('model', 'run', 'batch')]
    holders = [python(HOLD, p) for p in places]
    assert all(h.stdout.readline() == 'held\n' for h in holders)
    bids = tmp_path / 'bids' / 'sub-01' / 'anat'
    bids.mkdir(parents=True)
    (bids / 'sub-01_T1w.nii.gz').write_bytes((files / 'noisy.nii.gz').read_bytes())
    own = ['--preset', 'tiny', '--set', 'steps=2', '-q']
    commands = [
        ['train', 'noise2score', files / 'noisy.nii.gz', '--out', places[0], *own],
        ['denoise', files / 'noisy.nii.gz', files / 'd.nii.gz', '--method', 'noise2score',
         '--model', places[0], *own],
        ['run', 'schedule', '--out', places[1]],
        ['batch', tmp_path / 'bids', places[2], 'participant', '--method', 'blur', '-q'],
    ]  # fmt: skip
    for words in commands:
        got = cli(*words)
        assert got.code == 2 and got.err.count('\n') == 1, got
        assert 'is working in it; wait until it ends' in got.err
    assert f'process {holders[0].pid} on ' in cli(*commands[0]).err
    assert [p.name for p in places[0].iterdir()] == [LOCK]
    for h in holders:
        h.kill()  # SIGKILL: the system lifts the lock
        h.communicate()
    assert cli(*commands[0]).code == 0 and cli(*commands[3]).code == 0
    assert not list(places[0].rglob(LOCK)) and not list(places[2].rglob(LOCK))


def test_a_refused_training_leaves_no_folder_and_a_finished_one_no_lock(files, tmp_path):
    with pytest.raises(InputError):
        train_method(
            'noise2score', [files / 'noisy.nii.gz'], tmp_path / 'a/b', settings=dict(steps=0)
        )
    with pytest.raises(InputError), locked(tmp_path / 'c' / 'd'):
        raise InputError('refused')
    assert not list(tmp_path.iterdir()) or {p.name for p in tmp_path.iterdir()} == {'f'}
    with locked(tmp_path), pytest.raises(InputError, match='is working in it'), locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_processes_that_train_together_share_the_folder(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setenv('RANK', '1')
        with locked(tmp_path):
            assert (tmp_path / LOCK).exists()  # That of the first process
        assert (tmp_path / LOCK).exists()  # The second has not taken it away
        monkeypatch.setenv('RANK', '0')
        with pytest.raises(InputError, match='is working in it'), locked(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists()


def test_help_says_that_a_notebook_is_code(cli):
    got = cli('run', '--help').out + cli('denoise', '--help').out
    words = ' '.join(got.split())
    assert 'whose code will be run' in words and 'its code is run' in words


def test_the_handler_of_somebody_else_is_left_alone(cli):
    mine = lambda *_: None
    before = signal.signal(signal.SIGTERM, mine)
    try:
        cli('methods')
        assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        cli('methods')
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------ the table of cases
@pytest.fixture
def table():
    import importlib.util

    path = Path(__file__).parents[1] / 'tools' / 'cases.py'
    spec = importlib.util.spec_from_file_location('cases', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules['cases'] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


def test_the_table_of_cases_hides_no_wrong_answer(table, tmp_path):
    from mri_diffusion.methods.registry import get_method

    def said(command='noise', method=None, case=(), **found):
        c = table.Case('x.nii.gz', 'a scan', 10.0, lambda S: np.ones((8, 8, 4)), **dict(case))
        bench = table.Bench('00', c, tmp_path, None, tmp_path, tmp_path)
        found = dict(shape=(8, 8, 4), kind='magnitude', interval=None, said=[]) | found
        return table.judge(bench, command, method and get_method(method), found)[0]

    ran = dict(command='denoise', method='nlmeans', before=10.0)
    assert said(sigma=11.0) == said(**ran, after=5.0) == 'right'
    assert said(sigma=13.0, interval=(9, 14)) == 'right'
    assert said(sigma=13.0, interval=(6, 14), said=['wide, since']) == 'right'
    assert said(refusal='a phase image', case=dict(refused='phase')) == 'refused'
    wrong = [
        said(sigma=13.0),
        said(sigma=13.0, interval=(11, 14)),
        said(sigma=10.5, interval=(10.2, 14)),
        said(sigma=10.0, interval=(6, 14)),
        said(sigma=10.0, kind='signed'),
        said(sigma=10.0, shape=(8, 8, 4, 1)),
        said(sigma=10.0, case=dict(says='read as')),
        said(sigma=10.0, case=dict(refused='phase')),
        said(refusal='not finite'),
        said(refusal='not finite', case=dict(refused='phase')),
        said(failed='unexpected TypeError'),
        said(**ran, after=10.5),
        said(**ran, after=5.0, weak=[0.3, -0.9]),
        said(**ran, after=5.0, weak=[0.0, -0.35], case=dict(kind='signed')),
        said(**ran, after=5.0, deep=[0.0, 0.2], case=dict(kind='signed')),
        said('denoise', 'mppca', before=10.0, after=5.0),  # a volume is no series
        said('evaluate', psnr=30.0, psnr_true=28.0, md=None),
        said('evaluate', psnr=30.0, psnr_true=30.0, md=[1.0, 2.0]),
    ]
    assert set(wrong) == {'WRONG'}, wrong


def test_an_item_of_the_table_has_its_time(table):
    import time

    def two_lines():
        raise InputError('one\ntwo')

    assert table.limited(lambda: time.sleep(30), 0.3)['failed'] == 'no end within 0.3 s'
    assert table.limited(lambda: os._exit(3), 20)['failed'] == 'died without a word'
    assert table.limited(lambda: dict(a=1), 20)['a'] == 1
    assert 'ZeroDivisionError' in table.limited(lambda: 1 / 0, 20)['failed']
    assert 'more than one line' in table.limited(two_lines, 20)['failed']


def test_a_file_may_have_a_long_name_and_a_folder_may_be_unreadable(tmp_path):
    name = 'sub-01_' + 'ä' * 110 + '_dwi.nii.gz'
    with atomic_path(tmp_path / name) as p:
        assert p.name.endswith('_dwi.nii.gz')
        p.write_text('whole')
    box = tmp_path / 'box'
    box.mkdir()
    box.chmod(0o300)
    with atomic_path(box / 'a.txt') as p:
        p.write_text('whole')
    box.chmod(0o700)
    assert (tmp_path / name).exists() and [p.name for p in box.iterdir()] == ['a.txt']
