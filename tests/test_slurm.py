"A batch and a sweep on a real Slurm (tools/slurm.sh start); no daemon is started here"

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest

from mri_diffusion.app.cluster import read_queue
from mri_diffusion.core import generator, read_json
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1


def why_not():
    "Why no job can be sent from here, or nothing"
    if shutil.which('sbatch') is None:
        return 'no sbatch on this machine (apt-get install slurm-wlm munge)'
    told = subprocess.run(['sinfo', '-h', '-o', '%T'], capture_output=True, text=True).stdout
    up = {'idle', 'mixed', 'allocated', 'completing'} & set(told.split())
    return '' if up else 'no node of Slurm is up (tools/slurm.sh start, export SLURM_CONF)'


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or 'Slurm is up')

# Trains by `fit`; writes down its starts and its steps, and at the end its weights
TRAINING = """import os, sys, time
import torch
from pathlib import Path
from mri_diffusion.app.cluster import run_cluster
from mri_diffusion.learn.train import fit

class Line:
    def __len__(self): return 32
    def __getitem__(self, i):
        x = torch.tensor([i / 32]); return dict(x=x, y=3 * x - 1)

def squares(model, batch):
    time.sleep(0.15)
    with open(os.environ['STEPS'], 'a') as f: f.write('step\\n')
    noise = .01 * torch.randn_like(batch['x'])
    return (model(batch['x'] + noise) - batch['y']).square().mean()

class Training:
    settings = {}
    def __init__(self, out): self.out = str(out)
    def __call__(self):
        out = Path(self.out)
        out.mkdir(parents=True, exist_ok=True)
        os.environ['STEPS'] = str(out / 'steps')
        with open(out / 'starts', 'a') as f: f.write('start\\n')
        torch.manual_seed(0)
        net = torch.nn.Linear(1, 1)
        steps = 60
        fit(net, squares, Line(), steps, 0.05, out, device='cpu', seed=1, ema=0.9, quiet=True,
            checkpoint_every=1000)
        torch.save(net.state_dict(), out / 'net.pt')
    def checkpoint(self):
        from submitit.helpers import DelayedSubmission
        return DelayedSubmission(self)
"""


CALL = 'import sys; from mri_diffusion.app.cli import main; sys.exit(main(sys.argv[1:]))'


def queue():
    call = ['squeue', '-h', '-r', '-a', '-t', 'all', '-o', '%i|%T|%r']
    return read_queue(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def until(test, seconds=60):
    "What `test` gives as soon as it is true"
    for _ in range(seconds * 10):
        found = test()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError('waited in vain')


def command(*words):
    return [sys.executable, '-c', CALL, *map(str, words)]


def start(*words):
    "A command of its own, which takes Ctrl-C"
    return subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def jobs_of(folder):
    "Names of results -> job ids, as written down when they were sent"
    path = folder / 'jobs.json'
    if not path.is_file():
        return {}
    return {k: v['job'] for k, v in read_json(path).items()}


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "Four scans, of which the third was cut off"
    folder = tmp_path_factory.mktemp('slurm') / 'study'
    t1 = load_t1(downsample=6)
    for k in range(1, 5):
        path = folder / f'sub-0{k}' / 'anat' / f'sub-0{k}_T1w.nii.gz'
        t1.with_data(add_noise(t1.data, 0.08, gen=generator(k))).save(path)
    cut = folder / 'sub-03' / 'anat' / 'sub-03_T1w.nii.gz'
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return folder


SLURM = '--method', 'blur', '--cluster', 'slurm', '--submit', 'cpus', 1, '--submit', 'time', 5


def test_four_scans_are_one_array(study, cli, tmp_path):
    got = cli('batch', study, tmp_path / 'o', 'participant', *SLURM, '--json')
    assert got.code == 2 and 'truncated' in got.err, got.err
    assert [r['status'] for r in json.loads(got.out)] == ['done', 'done', 'failed', 'done']
    ids = list(jobs_of(tmp_path / 'o/.batch/submitit').values())
    number = ids[0].split('_')[0]
    assert ids == [f'{number}_{k}' for k in range(4)] and set(ids) <= set(queue())
    assert len(list((tmp_path / 'o/.batch/submitit').glob('*_submission.sh'))) == 1
    here = cli('batch', study, tmp_path / 'h', 'participant', '--method', 'blur', '--quiet')
    assert here.code == 2
    for path in (tmp_path / 'h').rglob('*desc-denoised*.nii.gz'):
        assert path.read_bytes() == (tmp_path / 'o' / path.relative_to(tmp_path / 'h')).read_bytes()


def test_after_success_nothing_is_sent(study, cli, tmp_path):
    words = 'batch', study, tmp_path / 'o', 'participant', *SLURM, '--participant-label', '01', '02'
    first = cli(*words)
    assert first.code == 0, first.err
    before = (tmp_path / 'o/.batch/submitit/jobs.json').read_bytes()
    again = cli(*words)
    assert again.code == 0 and '2 skipped' in again.out and 'sent' not in again.err
    assert (tmp_path / 'o/.batch/submitit/jobs.json').read_bytes() == before


def test_a_wrong_option_is_refused_in_one_line(study, cli, tmp_path):
    words = 'batch', study, tmp_path / 'o', 'participant', *SLURM, '--quiet'
    for option, said in (
        (('partition', 'nope'), 'nvalid partition'),
        (('mem', 'x'), '--submit mem'),
    ):
        got = cli(*words, '--submit', *option)
        assert got.code == 2 and said in got.err and got.err.count('\n') == 1, got.err


@pytest.fixture
def hold():
    "A job that takes every core; others wait until it is cancelled"
    sent = ['sbatch', '--parsable', '--exclusive', '-o/dev/null', '--wrap=sleep 300']
    number = subprocess.run(sent, capture_output=True, text=True, check=True).stdout.strip()
    until(lambda: queue()[number][0] == 'RUNNING')
    release = lambda: subprocess.run(['scancel', number], check=True)
    yield release
    release()


def test_a_second_start_joins_and_a_cancelled_job_is_one_line(study, cli, tmp_path, hold):
    words = 'batch', study, tmp_path / 'o', 'participant', *SLURM
    first, folder = start(*words), tmp_path / 'o/.batch/submitit'
    ids = list(until(lambda: jobs_of(folder)).values())
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130 and 'stay in the queue' in said and 'Traceback' not in said
    other = [w if w != 'blur' else 'nlmeans' for w in words]
    refused = cli(*other, '--quiet')
    assert refused.code == 2 and 'other settings' in refused.err and refused.err.count('\n') == 1
    subprocess.run(['scancel', ids[1]], check=True)
    second = start(*words)
    until(lambda: list(jobs_of(folder).values())[1] != ids[1])
    hold()
    out, said = second.communicate(timeout=120)
    assert '3 in the queue from an earlier start' in said and '1 sent' in said, said
    assert second.returncode == 2 and out.count('done') >= 3 and 'Traceback' not in said
    later = jobs_of(folder)
    assert list(later.values())[0] == ids[0] and list(later.values())[1] != ids[1]


def test_a_job_cancelled_while_we_wait_costs_its_row(study, tmp_path, hold):
    words = '--participant-label', '01', '02'
    run = start('batch', study, tmp_path / 'o', 'participant', *SLURM, *words)
    ids = list(until(lambda: jobs_of(tmp_path / 'o/.batch/submitit')).values())
    subprocess.run(['scancel', ids[1]], check=True)
    hold()
    out, said = run.communicate(timeout=120)
    assert (
        run.returncode == 1
        and f'job {ids[1]}: no longer in the queue (cancelled?)' in said
        and 'Traceback' not in said
    )
    table = pd.read_csv(tmp_path / 'o/summary.csv')
    assert table.status.tolist() == ['done', 'failed'] and 'cancelled' in table.message[1]


def send_trainings(folder, names):
    "A process that sends trainings to Slurm and waits for them"
    (folder / 'training.py').write_text(TRAINING)
    code = (
        f'import sys; sys.path.insert(0, {str(folder)!r})\n'
        'from pathlib import Path\n'
        'from training import Training, run_cluster\n'
        f'folder = Path({str(folder)!r})\n'
        f'jobs = [Training(folder / n) for n in {names!r}]\n'
        'how = dict(cpus_per_task=1, timeout_min=30)\n'
        "print(run_cluster(jobs, 'slurm', folder / 'sent', how, quiet=True))\n"
    )
    env = os.environ | dict(PYTHONPATH=str(folder))
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, '-c', code], env=env, **pipes)


@pytest.mark.parametrize(
    'how', [['scancel', '--signal=USR2'], ['scontrol', 'requeue']], ids=['signal', 'requeue']
)
def test_a_training_that_is_queued_again_ends_in_the_same_bits(tmp_path, how):
    "The signal comes before the time limit; a machine that is taken away requeues"
    run = send_trainings(tmp_path, ['a', 'b'])
    sent = until(lambda: jobs_of(tmp_path / 'sent'))
    first = sent[str(tmp_path / 'a')]
    count = lambda name, what: (tmp_path / name / what).read_text().count('\n')
    until(lambda: (tmp_path / 'a/steps').is_file() and count('a', 'steps') >= 10)
    subprocess.run([*how, first], check=True)
    out, err = run.communicate(timeout=240)
    assert out.strip() == '[None, None]', (out, err)
    assert [count(n, 'starts') for n in 'ab'] == [2, 1]
    assert [count(n, 'steps') for n in 'ab'] == [60, 60]  # none was done twice
    assert (tmp_path / 'a' / 'net.pt').read_bytes() == (tmp_path / 'b' / 'net.pt').read_bytes()


NOTE = """import json, os, time
from mri_diffusion.app.experiments import RunDir
run = RunDir(out, dict(k=k))
begin = time.time()
time.sleep(2)
run.result(dict(begin=begin, end=time.time(), job=os.environ['SLURM_ARRAY_TASK_ID']))"""


def test_a_sweep_is_an_array_and_jobs_is_its_parallelism(tmp_path):
    cells = [
        nbformat.v4.new_code_cell('k = 0\nout = None', metadata=dict(tags=['parameters'])),
        nbformat.v4.new_code_cell(NOTE),
    ]
    kernel = dict(display_name='python3', language='python', name='python3')
    notebook = tmp_path / 'note.ipynb'
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), notebook
    )
    (tmp_path / 's.json').write_text('{"k": [1, 2, 3]}')
    words = ['run', notebook, '--out', tmp_path / 'o', '--sweep', tmp_path / 's.json']
    words += ['--cluster', 'slurm', '--jobs', 1, '--submit', 'cpus', 1, '--submit', 'time', 5]
    run = subprocess.run(command(*words), capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    done = [read_json(p) for p in sorted((tmp_path / 'o').glob('*/result.json'))]
    times = sorted((r['begin'], r['end']) for r in done)
    assert len(done) == 3 and sorted(r['job'] for r in done) == ['0', '1', '2']
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(times))  # one at a time
    again = subprocess.run(command(*words), capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and 'all runs have finished before' in again.stderr
