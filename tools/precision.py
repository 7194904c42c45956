"""Precision and layout on a CPU, seconds and dB side by side: `precision.py [CSV [STEPS]]`

Four ways run in turns in one thread, for three noise seeds: a pass of the UNet in the package on a
head, and a step of a training of the preset laptop, whose network then denoises a head with other
noise. Seconds are those of the processor, on which a busy machine has little influence.
"""

import copy
import sys
import time

import pandas as pd
import torch
from torch.utils.data import DataLoader

from mri_diffusion.app.bench import _CASES, SIZES, _task, bench_data, has_bfloat16
from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.judge.scores import psnr
from mri_diffusion.learn.train import batches_from
from mri_diffusion.scans.nifti import Scan

SEEDS = 0, 1, 2
WAYS = {f'{p}, {m}': (p, m) for p in ('float32', 'bf16') for m in ('channels first', 'last')}
_HOW = SIZES['default'] | dict(threads=1, device='cpu', quiet=True, volume=(48, 48, 32))
ROUNDS = 5  # Of passes


def loop(task, half, last):
    "Network, and the losses of the five lines that one writes by hand, in a precision and layout"
    net, order = copy.deepcopy(task['net']), batches_from(len(task['data']), 2, 0, 0, 1000)
    form = torch.channels_last_3d if last else torch.contiguous_format
    net.to(memory_format=form)

    def steps():
        opt = torch.optim.AdamW(net.parameters(), lr=task['lr'])
        for batch in DataLoader(task['data'], batch_sampler=order):
            images = {k: v for k, v in batch.items() if torch.is_tensor(v) and v.ndim == 5}
            batch |= {k: v.contiguous(memory_format=form) for k, v in images.items()}
            with torch.autocast('cpu', torch.bfloat16, enabled=half):
                loss = task['objective'](net, batch)
            loss.backward()
            opt.step()
            opt.zero_grad()
            yield float(loss.detach())

    return net, steps()


def trained(seed, steps):
    "Seconds of a step and dB of a head, one row a way"
    data, other = (bench_data(_HOW['volume'], (8, 8, 8, 7), s) for s in (seed, seed + 100))
    task = _task('unet', data, _HOW | dict(seed=seed))
    loops = {name: loop(task, p == 'bf16', m == 'last') for name, (p, m) in WAYS.items()}
    times = {name: [] for name in WAYS}
    for _ in range(steps):
        for name, (_, own) in loops.items():
            start = time.process_time()
            next(own)
            times[name].append(time.process_time() - start)
    d = Denoiser('unet', 'laptop', seed=seed, device='cpu', quiet=True, steps=1)
    d.fit([data['volume']], [data['volume_clean']])
    for name, (net, _) in loops.items():
        d.net = net.eval().to(memory_format=torch.contiguous_format)
        out = d.apply(Scan.from_array(other['volume']), other['sigma']).denoised.data
        clean = other['volume_clean']
        dB = psnr(out, clean, clean > 0)
        seconds = pd.Series(times[name]).median()
        yield dict(what='step of a training', way=name, seed=seed, seconds=seconds, psnr=dB)


def passes(seed):
    "Seconds of a pass of the network of the package and dB of a head, one row a way"
    data = bench_data(_HOW['volume'], (8, 8, 8, 7), seed)
    calls, clean = {}, data['volume_clean']
    for name, make in _CASES['precision'].items():
        half, first = 'bf16' in name, 'channels first' in name
        way = f'{"bf16" if half else "float32"}, {"channels first" if first else "last"}'
        calls[way] = make(data, _HOW).run
    outs, times = {k: run(data['volume']) for k, run in calls.items()}, {k: [] for k in calls}
    for _ in range(ROUNDS):
        for name, run in calls.items():
            start = time.process_time()
            run(data['volume'])
            times[name].append(time.process_time() - start)
    for name in WAYS:
        dB, seconds = psnr(outs[name], clean, clean > 0), pd.Series(times[name]).median()
        yield dict(what='pass', way=name, seed=seed, seconds=seconds, psnr=dB)


def main(out='results/precision.csv', steps='60'):
    "Print the table, and keep it"
    if not has_bfloat16():
        sys.exit('the processor has no units for bfloat16')
    torch.set_num_threads(1)
    rows = [r for seed in SEEDS for r in (*passes(seed), *trained(seed, int(steps)))]
    table = pd.DataFrame(rows)
    base = table[table.way == 'float32, channels first'].set_index(['what', 'seed'])
    of = lambda column: [base[column][r.what, r.seed] for r in table.itertuples()]
    table['times_float32_first'], table['dB'] = (
        table.seconds / of('seconds'),
        table.psnr - of('psnr'),
    )
    table.round(4).to_csv(out, index=False)
    each = table.groupby(['what', 'way'], sort=False).mean().drop(columns='seed')
    print(each.round(4).to_string())


if __name__ == '__main__':
    main(*sys.argv[1:])
