"`make test`: everything CI runs, one summary at the end"

import os
import subprocess
import sys
import time
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


def main():
    "Run all steps, also after a failure; no step may leave a file in the project"
    before = set(files())
    with TemporaryDirectory(prefix='mri-test-') as tmp:
        env = os.environ | dict(
            OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PYTHONDONTWRITEBYTECODE='1', TMPDIR=tmp
        )
        env['PATH'] = f'{bin}:{env.get("PATH", "")}'
        done = [run(*step, env) for step in steps.items()]
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
