"`make test`: everything CI runs, one summary at the end"

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from project import files, root

bin = os.path.dirname(sys.executable)
formatted = ['nbs', 'tests', 'tools', 'setup.py']
steps = {
    'formatted (ruff format)': [f'{bin}/ruff', 'format', '--no-cache', '--check', *formatted],
    'no findings (ruff check)': [f'{bin}/ruff', 'check', '--no-cache', *formatted],
    'notebooks are clean and exported': [sys.executable, 'tools/check_clean.py'],
    'pages run (as by nbdev_test)': [sys.executable, 'tools/test_pages.py'],
    'tests beside the pages (pytest)': [
        sys.executable,
        '-m',
        'pytest',
        '-n2',
        '--dist=loadfile',
        '--no-loadscope-reorder',  # in the order of tests/conftest.py: the longest first
        '--durations=5',
        '-pno:cacheprovider',
    ],
    'docs check': [sys.executable, 'tools/check_docs.py'],
}


def run(name, command, env):
    "Run one step, its output as it comes; (name, passed, seconds)"
    print(f'\n== {name}', flush=True)
    start = time.monotonic()
    code = subprocess.run(command, cwd=root, env=env).returncode
    return name, code == 0, time.monotonic() - start


@contextmanager
def quick_starts(folder, env):
    "Adds to `env` the python of tools/warm.py, where processes can be forked so; says if it failed"
    if sys.platform != 'linux':
        yield True
        return
    python = Path(folder) / 'warm/bin/python'
    server = subprocess.Popen(
        [sys.executable, 'tools/warm.py', python.parents[1]], cwd=root, env=env
    )
    while not python.exists() and server.poll() is None:
        time.sleep(0.1)
    if server.poll() is None:
        env['WARM_PYTHON'] = str(python)
    try:
        yield server.poll() is None
    finally:
        server.terminate()
        server.wait()


def main():
    "Run all steps, also after a failure; no step may leave a file in the project"
    before = set(files())
    with TemporaryDirectory(prefix='mri-test-') as tmp:
        env = os.environ | dict(
            OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PYTHONDONTWRITEBYTECODE='1', TMPDIR=tmp
        )
        env['PATH'] = f'{bin}:{env.get("PATH", "")}'
        with quick_starts(tmp, env) as started:
            done = [run(*step, env) for step in steps.items()]
        done.append(('quick starts of processes (tools/warm.py)', started, 0))
    left = sorted(map(str, set(files()) - before))
    done.append(('no file left behind', not left, 0))
    if left:
        print('\nleft behind: ' + ', '.join(left))
    print('\n== summary')
    for name, passed, seconds in done:
        print(f'{"passed" if passed else "FAILED":7}{seconds:6.0f} s  {name}')
    return not all(passed for _, passed, _ in done)


if __name__ == '__main__':
    sys.exit(main())
