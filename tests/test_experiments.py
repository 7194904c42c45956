"Runs from outside a notebook: bars, Ctrl-C and going on, exit codes, sweeps, submitit"

import json
import os
import signal
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from mri_diffusion.app.experiments import collect, grid, run_experiment, summarise, sweep
from mri_diffusion.core import InputError, MriDiffusionError, read_json

PARAMETERS = """steps = 3    # Steps to take
fail = ''    # Raise this
out = None   # Folder of the run"""
BODY = """import json, os, time
from mri_diffusion.core import InputError, progress
from mri_diffusion.app.experiments import RunDir
run = RunDir(out, dict(steps=steps))
state = run.checkpoint/'state.json'
run.checkpoint.mkdir(exist_ok=True)
begin = i = json.loads(state.read_text()) if state.exists() else 0
if fail == 'input': raise InputError('scan.nii.gz: no such file')
if fail == 'bug': raise KeyError('x')
if fail == 'kill': os._exit(1)
try:
    for i in progress(range(begin, steps), 'training'): time.sleep(.1)
finally:
    time.sleep(1)
    state.write_text(json.dumps(i))
run.result(dict(begin=begin, score=steps/10))"""
CALL = """import sys
from mri_diffusion.core import MriDiffusionError
from mri_diffusion.app.experiments import run_experiment
try: print(run_experiment(sys.argv[1], sys.argv[2], dict(steps=sys.argv[3])))
except MriDiffusionError as e:
    print(e, file=sys.stderr)
    sys.exit(e.exit_code)"""

HIDDEN = """import sys
hidden, words = sys.argv[1].split(','), sys.argv[2:]
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in hidden:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Hide())
from mri_diffusion.app.cli import main
sys.exit(main(words))"""
JUPYTER = 'papermill,ipykernel,jupyterlab,ipywidgets,IPython,nbformat,nbclient,jupyter_client'


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters'])),
        nbformat.v4.new_code_cell(BODY),
    ]
    kernel = dict(display_name='python3', language='python', name='python3')
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)),
        tmp_path / 'tiny.ipynb',
    )
    return tmp_path / 'tiny.ipynb'


def start(notebook, out, steps):
    env = {k: v for k, v in os.environ.items() if k != 'MRI_DIFFUSION_QUIET'} | dict(
        TQDM_MININTERVAL='0.1'
    )
    return subprocess.Popen(
        [sys.executable, '-c', CALL, str(notebook), str(out), str(steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # tests started in the background would hand on a Ctrl-C that is ignored


def test_bars_arrive_while_it_runs_and_ctrl_c_can_be_continued(notebook, tmp_path):
    out, run = tmp_path / 'run', start(notebook, tmp_path / 'run', 600)
    seen = b''
    while b' 12/600' not in seen:
        seen += os.read(run.stderr.fileno(), 4096)
    run.send_signal(signal.SIGINT)
    _, rest = run.communicate(timeout=90)
    assert (
        run.returncode == 130
        and b'run the same command again to continue' in rest
        and b'Traceback' not in rest
    )
    reached = json.loads((out / 'checkpoint/state.json').read_text())
    assert reached >= 11 and not (out / 'result.json').exists() and (out / 'tiny.ipynb').is_file()
    (out / 'params.json').write_text(
        (out / 'params.json').read_text().replace('600', str(reached + 2))
    )
    again = start(notebook, out, reached + 2)
    assert again.communicate(timeout=90) and again.returncode == 0
    assert read_json(out / 'result.json')['begin'] == reached


def test_exit_codes(notebook, tmp_path):
    with pytest.raises(InputError, match='^scan.nii.gz: no such file$'):
        run_experiment(notebook, tmp_path / 'a', dict(fail='input'), quiet=True)
    with pytest.raises(MriDiffusionError, match='KeyError') as e:
        run_experiment(notebook, tmp_path / 'b', dict(fail='bug'), quiet=True)
    assert (
        e.value.exit_code == 1
        and '\n' not in str(e.value)
        and (tmp_path / 'b/tiny.ipynb').is_file()
    )
    with pytest.raises(MriDiffusionError, match='kernel stopped'):
        run_experiment(notebook, tmp_path / 'c', dict(fail='kill'), quiet=True)


def test_bad_calls_leave_nothing(notebook, tmp_path):
    for params in (dict(stepz=1), dict(steps='x'), dict(out='y')):
        with pytest.raises(InputError):
            run_experiment(notebook, tmp_path / 'd', params, quiet=True)
    with pytest.raises(InputError, match='no such experiment'):
        run_experiment('compar', tmp_path / 'd', quiet=True)
    assert not (tmp_path / 'd').exists()
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError):
        run_experiment(notebook, tmp_path / 'file', quiet=True)


def test_kernel_that_does_not_start_is_tried_once_more(notebook, tmp_path, monkeypatch):
    from mri_diffusion.app import experiments

    real, calls = experiments._papermill, []

    def flaky(*args):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError('Kernel died before replying to kernel_info')
        return real(*args)

    monkeypatch.setattr(experiments, '_papermill', flaky)
    assert run_experiment(notebook, tmp_path / 'e', quiet=True)['score'] == 0.3 and len(calls) == 2


def test_pool_and_submitit_agree(notebook, tmp_path):
    settings = grid(steps=[1, 2])
    pool = sweep(notebook, settings, tmp_path / 'pool', jobs=2, quiet=True)
    queue = sweep(notebook, settings, tmp_path / 'queue', cluster='debug', quiet=True)
    assert pool.run.tolist() == ['steps=1', 'steps=2'] and pool.equals(queue)
    assert sweep(notebook, settings, tmp_path / 'queue', cluster='debug', quiet=True).equals(queue)
    assert collect(tmp_path).shape[0] == 4


def test_summary_needs_its_columns():
    frame = pd.DataFrame(dict(lr=[1, 1, 2], seed=[0, 1, 0], psnr=[30.0, 32.0, 20.0]))
    table = summarise(frame, 'lr')
    assert (
        table.n.tolist() == [2, 1]
        and table.psnr.tolist() == [31, 20]
        and abs(table.psnr_std[0] - 2**0.5) < 1e-12
    )
    with pytest.raises(InputError, match='no column size'):
        summarise(frame, 'size')


def without(packages, *words):
    "The command line in a Python that lacks these packages"
    call = [sys.executable, '-c', HIDDEN, packages, *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True)


@pytest.mark.parametrize('missing', ['papermill', 'ipykernel'])
@pytest.mark.usefixtures('cold')
def test_a_report_without_its_extra_is_refused_in_one_line(made, tmp_path, missing):
    out = tmp_path / 'out.nii.gz'
    words = ('denoise', made / 'noisy.nii.gz', out, '--method', 'blur')
    run = without(missing, *words, '--report', tmp_path / 'qa.html')
    assert run.returncode == 2 and run.stderr.count('\n') == 1 and not out.exists()
    assert f"needs {missing}: pip install 'mri_diffusion[report]'" in run.stderr


@pytest.mark.usefixtures('cold')
def test_denoising_needs_no_jupyter(made, tmp_path):
    out = tmp_path / 'out.nii.gz'
    run = without(JUPYTER, 'denoise', made / 'noisy.nii.gz', out, '--method', 'blur')
    assert run.returncode == 0 and out.is_file(), run.stderr


def test_sliders_without_their_extra_are_refused_in_one_line(monkeypatch):
    from mri_diffusion.viz import explore_slices

    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(InputError, match=r"ipywidgets: pip install 'mri_diffusion\[lab\]'"):
        explore_slices([[[0.0, 1.0], [1.0, 2.0]]] * 2)
