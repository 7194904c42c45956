"""Steps a second of a training alone and beside busy processes: `load.py [CSV [PRESET [ROUNDS]]]`

Each row of the table is a process of its own, and all wait while one of them trains: the rows run in
turns. A busy process is a Python that counts for nothing. Linux, with torch's libgomp; on a machine
that others use, the steps alone are too few.
"""

import json
import os
import subprocess
import sys
import time

import pandas as pd

OWN = dict(GOMP_SPINCOUNT='300000')  # What libgomp does where nobody asks for anything
ROWS = {  # name -> threads, environment
    'as libgomp has it': (2, OWN),
    'as the package has it': (2, {}),
    'OMP_WAIT_POLICY=passive': (2, dict(OMP_WAIT_POLICY='passive')),
    'one thread': (1, {}),
}
SECONDS = 1.2  # Of a turn
BUSY = [sys.executable, '-S', '-c', 'while True: pass']


def child(preset):
    "Train, and wait for a line before each turn; prints the steps a second of the last turn"
    from mri_diffusion.app.bench import bench_data
    from mri_diffusion.app.denoiser import Denoiser

    data, marks = bench_data(series=(8, 8, 8, 7)), []

    def turn(state):
        marks.append(time.perf_counter())
        if len(marks) > 2 and marks[-1] - marks[0] < SECONDS:
            return
        print(json.dumps((len(marks) - 1) / max(marks[-1] - marks[0], 1e-9)), flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        marks[:] = [time.perf_counter()]

    marks += [0.0, 0.0]  # the first step, which builds, is no turn
    denoiser = Denoiser('unet', preset, device='cpu', quiet=True, steps=10**6)
    denoiser.fit([data['volume']], [data['volume_clean']], callbacks=[turn])


def start(name, preset):
    "The process of a row"
    threads, own = ROWS[name]
    kinds = ('OMP_', 'GOMP_', 'KMP_', 'MKL_')
    env = {k: v for k, v in os.environ.items() if not k.startswith(kinds)}
    env |= own | dict(OMP_NUM_THREADS=str(threads))
    words = [sys.executable, '-W', 'ignore', __file__, 'child', preset]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=env)


def measure(preset, rounds, loads):
    "(row, number of busy processes) -> steps a second, one a round"
    children, found = {name: start(name, preset) for name in ROWS}, {}
    try:
        for c in children.values():
            c.stdout.readline()
        for _ in range(rounds):
            for load in loads:
                busy = [subprocess.Popen(BUSY) for _ in range(load)]
                try:
                    for name, c in children.items():
                        print(file=c.stdin, flush=True)
                        rate = json.loads(c.stdout.readline())
                        found.setdefault((name, load), []).append(rate)
                finally:
                    for b in busy:
                        b.kill()
                        b.wait()
    finally:
        for c in children.values():
            c.kill()
            c.wait()
    return found


def main(out='results/load.csv', preset='laptop', rounds='5'):
    "Print the table, and keep it"
    cores = len(os.sched_getaffinity(0))
    found = measure(preset, int(rounds), (0, cores, 4 * cores))
    table = pd.DataFrame(
        dict(waiting=name, threads=ROWS[name][0], cores=cores, busy=load, preset=preset)
        | dict(steps_a_second=pd.Series(rates).median(), low=min(rates), high=max(rates))
        for (name, load), rates in found.items()
    )
    alone = table[table.busy == 0].set_index('waiting').steps_a_second
    table['times_slower'] = table.waiting.map(alone) / table.steps_a_second
    table = table.round(2)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


if __name__ == '__main__':
    if sys.argv[1:2] == ['child']:
        child(sys.argv[2])
    else:
        main(*sys.argv[1:])
