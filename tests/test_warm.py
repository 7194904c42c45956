"The quick starts of `make test` (tools/warm.py) show what a start of the real Python shows"

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    'WARM_PYTHON' not in os.environ, reason='make test starts tools/warm.py'
)


def python(*words, **more):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **more)


def test_it_is_a_process_with_the_imports_done():
    "Also in a process that it starts itself"
    code = 'import os, sys; print("torch" in sys.modules, os.getpid(), sys.executable)'
    nested = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {code!r}])'
    found = [python('-c', c).stdout.split() for c in (code, code, nested)]
    assert all(f[0] == 'True' and f[2] == sys.executable for f in found)
    assert len({f[1] for f in found} | {str(os.getpid())}) == 4


def test_what_was_asked_for_arrives(tmp_path):
    code = 'import os, sys; print(sys.stdin.read(), sys.argv, os.getcwd(), os.environ["MINE"])'
    env = os.environ | dict(MINE='yes')
    run = python('-c', code, 'a', '-b', cwd=tmp_path, input='in', env=env)
    assert run.stdout == f"in ['-c', 'a', '-b'] {tmp_path} yes\n" and not run.stderr
    (tmp_path / 'file.py').write_text('import sys; print(__file__, sys.path[0], __name__)')
    assert python(tmp_path / 'file.py').stdout.split() == [
        *(str(tmp_path / 'file.py'), str(tmp_path), '__main__')
    ]
    run = python('-m', 'json.tool', input='{"a": 1}')
    assert run.stdout.split() == ['{', '"a":', '1', '}']


@pytest.mark.parametrize(
    'code, returned, said',
    [
        ('import sys; sys.exit(3)', 3, ''),
        ('import sys; sys.exit("why")', 1, 'why\n'),
        ('1 / 0', 1, 'ZeroDivisionError: division by zero\n'),
        ('import os; os.kill(os.getpid(), 9)', -9, ''),
        ('import os; os.abort()', -6, ''),
    ],
)
def test_it_ends_as_its_program_ends(code, returned, said):
    run = python('-c', code)
    assert run.returncode == returned and run.stderr.endswith(said)


def test_ctrl_c_arrives_once():
    code = """import time
try:
    print('begun', flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(.3)
    print('once')
"""
    # a run in the background would hand on a Ctrl-C that is ignored
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen([sys.executable, '-c', code], stdout=-1, text=True, preexec_fn=heard)
    assert run.stdout.readline() == 'begun\n'
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=60)[0] == 'once\n' and run.returncode == 0


def test_it_is_killed_with_its_caller():
    code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'
    run = subprocess.Popen([sys.executable, '-c', code], stdout=-1, text=True)
    child = Path('/proc', run.stdout.readline().strip(), 'stat')
    assert child.exists()
    run.kill()
    run.wait()
    for _ in range(600):
        if not child.exists():
            break
        time.sleep(0.1)
    assert not child.exists()


def test_every_process_has_randomness_of_its_own():
    code = """import os, random, tempfile, numpy, torch
print(random.random(), numpy.random.rand(), float(torch.rand(1)))
print(torch.get_num_threads(), tempfile.gettempdir(), torch.initial_seed())"""
    a, b = (python('-c', code).stdout.splitlines() for _ in 'ab')
    assert not set(a[0].split()) & set(b[0].split())
    assert a[1].split()[0] == '1'


@pytest.mark.parametrize(
    'more', [dict(COLD_PYTHON='1'), dict(OMP_NUM_THREADS='2'), dict(TQDM_MININTERVAL='1')]
)
def test_other_surroundings_begin_from_nothing(more):
    code = 'import sys; print("torch" in sys.modules)'
    assert python('-c', code, env=os.environ | more).stdout == 'False\n'
    assert python('-I', '-c', code).stdout == 'False\n'


def test_a_script_beside_it_starts_by_it():
    "As the command of the package: with its words, its exit code and the imports done"
    beside = Path(sys.executable).parent
    first = (beside / 'mri-diffusion').read_text().splitlines()[0]
    assert first == f'#!{sys.executable}'
    run = subprocess.run([beside / 'mri-diffusion', '--version'], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith('mri-diffusion 0.') and not run.stderr
    assert (beside / 'ruff').is_symlink()  # no script of this Python


def test_more_folders_of_modules(tmp_path):
    "They are searched; where one hides what was imported, the process begins from nothing"
    (tmp_path / 'own_module.py').write_text('name = "mine"\n')
    code = 'import own_module, sys; print("torch" in sys.modules, own_module.name)'
    known = os.environ.get('PYTHONPATH')
    for folder in (str(tmp_path), '.'):
        env = os.environ | dict(PYTHONPATH=os.pathsep.join([folder, *filter(None, [known])]))
        assert python('-c', code, env=env, cwd=tmp_path).stdout == 'True mine\n'
    (tmp_path / 'torch.py').write_text('name = "another"\n')
    run = python('-c', 'import torch; print(torch.name)', env=env, cwd=tmp_path)
    assert run.stdout == 'another\n'


def test_workers_of_a_loader_and_a_pool_run():
    code = """import torch, multiprocessing
from concurrent.futures import ProcessPoolExecutor
print(multiprocessing.get_start_method(allow_none=True))
data = torch.utils.data.DataLoader(torch.arange(8.), 2, num_workers=2)
print(sum(float(b.sum()) for b in data))
with ProcessPoolExecutor(2) as pool: print(sum(pool.map(abs, range(-3, 0))))
"""
    assert python('-c', code).stdout.split() == ['None', '28.0', '6']
