"""What the library does on a GPU, measured unattended: `python tools/gpu.py FOLDER`.

Parts run in order of importance and write FOLDER/PART.json and PART.csv as they go; a part or a
setting that fails is written down with its error, and the next begins. No part begins after the
time of `--minutes`. `--device cpu --tiny` runs every part tiny; such numbers say nothing of a GPU.
A row: what was measured, its unit, the median, the spread (largest less smallest of the repeats),
the peak of torch's memory on the device, precision, compiled or not.
"""

import argparse
import cProfile
import json
import math
import os
import platform
import pstats
import statistics
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from pathlib import Path

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # matrix products that repeat
os.environ.setdefault('MRI_DIFFUSION_QUIET', '1')

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 'what size precision compiled value unit spread repeats peak_MiB error'.split()
# Largest seconds of a part; from there on its settings are written down as skipped
PARTS = dict(
    network=100, agreement=40, ddm2=120, pretrain=70, resume=35, denoise=30, series=80, diffusion=65
)
FULL = dict(
    sides=(128, 256),
    matrix=8192,
    repeats=9,
    series=(128, 128, 60),
    directions=32,
    slab=8,
    crop=(96, 64, 24),
    every=10,
    preset='paper',
    published={},
    recipe='full',
    training=(400, 600),
    strides=10,
    diffdenoise={},
)
TINY = dict(
    sides=(16, 24),
    matrix=64,
    repeats=2,
    series=(24, 24, 6),
    directions=7,
    slab=2,
    crop=(24, 24, 6),
    every=1,
    preset='tiny',
    published=dict(T=8),
    recipe='smoke',
    training=(2, 2),
    strides=2,
    diffdenoise=dict(steps1=3, steps2=3, steps=3),
)
LATE = 50  # Seconds after the time is over in which a part must come back
PRECISIONS = dict(no='fp32', bf16='bf16')
FORMS = (  # precision, channels last, compiled
    ('no', False, False),
    ('no', True, False),
    ('bf16', False, False),
    ('bf16', True, False),
    ('bf16', True, True),
)


class Skipped(Exception):
    "The time of the part or of the run is over"


class Enough(Exception):
    "A training was watched for long enough"


def spread(values):
    return max(values) - min(values)


def short(e):
    lines = str(e).strip().split('\n')
    return f'{type(e).__name__}: {lines[0][:300]}'


def write(path, text):
    "A small file, whole or not at all"
    tmp = path.with_suffix(path.suffix + '.tmp')
    tmp.write_text(text, encoding='utf-8')
    tmp.replace(path)


class Report:
    "Rows of one part, written after each"

    def __init__(self, run, name):
        self.run, self.name, self.rows = run, name, []
        self.status, self.error, self.began = 'running', None, time.perf_counter()
        self.save()

    def add(self, what, value, unit, **about):
        "One number"
        row = dict(what=what, value=value, unit=unit, **about)
        self.rows.append({k: row.get(k) for k in COLUMNS})
        said = 'failed: ' + row['error'] if row.get('error') else f'{value:.4g} {unit}'
        how = ' '.join(str(row[k]) for k in COLUMNS[1:3] if row.get(k))
        how += ' compiled' if row.get('compiled') else ''
        print(f'{self.name:10} {what}{": " if how else ""}{how} = {said}', flush=True)
        self.save()

    def save(self):
        seconds = round(time.perf_counter() - self.began, 1)
        found = dict(part=self.name, status=self.status, error=self.error, seconds=seconds)
        found |= dict(machine=self.run.machine, rows=self.rows)
        write(self.run.folder / f'{self.name}.json', json.dumps(found, indent=1, default=str))
        text = pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False)
        write(self.run.folder / f'{self.name}.csv', text)

    def attempt(self, what, f, *args, unit='', **about):
        "f(*args), whose error is a row and stops nothing; None then"
        try:
            left = self.began + PARTS[self.name] - time.perf_counter()
            if min(left, self.run.left() + 20) < 0:
                raise Skipped('the time of this part is over')
            return f(*args)
        except Exception as e:
            self.add(what, None, unit, error=short(e), **about)
            return None

    def timed(self, what, f, unit='ms', repeats=None, warm=True, **about):
        "Median time of f() after a first call that does not count; what it returned last"

        def work():
            if warm:
                f()
                self.run.synchronize()
            times, most = [], repeats or self.run.use['repeats']
            self.run.forget_peak()
            while len(times) < most and (sum(times) < 8 or len(times) < 2 and sum(times) < 20):
                since = time.perf_counter()
                result = f()
                self.run.synchronize()
                times.append(time.perf_counter() - since)
            scale = dict(ms=1e3, s=1)[unit]
            times, peak = [t * scale for t in times], self.run.peak()
            found = dict(spread=spread(times), repeats=len(times), peak_MiB=peak)
            self.add(what, statistics.median(times), unit, **found, **about)
            return statistics.median(times) / scale, result

        return self.attempt(what, work, unit=unit, **about) or (None, None)


class Run:
    "Device, sizes, time that is left, and data that several parts share"

    def __init__(self, folder, device, tiny, minutes):
        self.folder, self.device, self.tiny = Path(folder), device, tiny
        self.use, self.end = TINY if tiny else FULL, time.perf_counter() + 60 * minutes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.machine = describe(device, tiny)
        self.precisions = ('no', 'bf16')
        self.compiler = 'eager' if tiny else 'inductor'  # the first only tries the call
        self.machine['compiler'] = self.compiler

    def left(self):
        return self.end - time.perf_counter()

    def synchronize(self):
        if self.device == 'cuda':
            torch.cuda.synchronize()

    def forget_peak(self):
        if self.device == 'cuda':
            torch.cuda.reset_peak_memory_stats()

    def peak(self):
        "MiB; None on a CPU"
        return torch.cuda.max_memory_allocated() / 2**20 if self.device == 'cuda' else None

    def autocast(self, precision):
        on = precision == 'bf16'
        return torch.autocast(self.device, torch.bfloat16) if on else nullcontext()

    @cached_property
    def matrix_peak(self):
        "FLOP/s of a large product of bf16 matrices"
        n, repeats = self.use['matrix'], 10
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        best = math.inf
        for _ in range(4):  # the first warms up
            self.synchronize()
            since = time.perf_counter()
            for _ in range(repeats):
                a @ b
            self.synchronize()
            best = min(best, (time.perf_counter() - since) / repeats)
        return 2 * n**3 / best

    @cached_property
    def series(self):
        "Noise-free series with its tables and mask, and its noisy form at SNR 15 of white matter"
        from mri_diffusion.core import generator
        from mri_diffusion.noise.models import add_noise
        from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

        tables = make_gradients({1000: self.use['directions']})
        clean, _ = simulate_dmri(*tables, self.use['series'], voxel_size=None)
        sigma = 700.0 / 15
        noisy = clean.with_data(add_noise(clean.data, sigma, 'rician', gen=generator(1)))
        return clean, noisy, sigma

    def cut(self, x, y, z):
        "The middle of clean and noisy series, and sigma"
        from mri_diffusion.scans.nifti import Scan

        clean, noisy, sigma = self.series
        middle = lambda n, m: slice((n - min(n, m)) // 2, (n - min(n, m)) // 2 + min(n, m))
        at = tuple(middle(n, m) for n, m in zip(clean.shape, (x, y, z)))
        mask = clean.mask[at]
        parts = [Scan.from_array(s.data[at], None, s.bvals, s.bvecs, mask) for s in (clean, noisy)]
        return *parts, sigma


def describe(device, tiny):
    "What computes"
    found = dict(python=platform.python_version(), torch=torch.__version__, device=device)
    found |= dict(tiny=tiny, cpus=os.cpu_count(), threads=torch.get_num_threads())
    if device == 'cuda':
        p = torch.cuda.get_device_properties(0)
        found |= dict(
            gpu=p.name, memory_GiB=round(p.total_memory / 2**30, 1), sms=p.multi_processor_count
        )
        found |= dict(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    found['tf32_in_fp32_convolutions'] = torch.backends.cudnn.allow_tf32
    found['fp32_matrix_products'] = torch.get_float32_matmul_precision()
    return found


def decibels(image, clean, mask=None):
    from mri_diffusion.judge.scores import psnr

    return psnr(image, clean, mask)


# the network of the package ------------------------------------------------------------------


def unit_volume(side):
    "Clean invented anatomy at SNR 15 with noise of std one: (side,) * 3 each, float32"
    from mri_diffusion.phantoms.anatomy import anatomy

    small = anatomy((0, 0), min(side, 64))
    times = -(-side // len(small))
    clean = 15 * np.tile(small, (times,) * 3)[:side, :side, :side]
    rng = np.random.default_rng(0)
    return clean, (clean + rng.standard_normal(clean.shape, np.float32)).astype(np.float32)


def one_pass(net, x, precision, run):
    with torch.no_grad(), run.autocast(precision):
        return net(x)


def network(run, report):
    "One pass over a volume; aim: 128^3 in 50 ms or less"
    report.add('matrix product, bf16', run.matrix_peak / 1e12, 'TFLOP/s', precision='bf16')
    for side in run.use['sides']:
        report.attempt('passes', passes, run, report, side, size=side)


def passes(run, report, side):
    "The network on one volume, in every form"
    from mri_diffusion.methods.pretrained import apply_net
    from mri_diffusion.methods.shipped import load_shipped
    from mri_diffusion.nets.unet import count_flops

    clean, z = unit_volume(side)
    net, images = load_shipped('unet')[0].to(run.device), {}
    flops = report.attempt('operations', count_flops, net, (1, 1, *z.shape), size=side)
    if flops:
        report.add('operations of a pass', flops / 1e12, 'TFLOP', size=side)
    for precision, last, compiled in FORMS:
        about = dict(size=side, compiled=compiled)
        about['precision'] = PRECISIONS[precision] + ('+channels_last' if last else '')
        call = report.attempt('pass', ready_pass, run, z, precision, last, compiled, **about)
        took, y = report.timed('pass', call, **about) if call else (None, None)
        if took and flops:
            share = 100 * flops / took / run.matrix_peak
            report.add('share of the matrix peak', share, '%', **about)
        if took:
            images[about['precision'], compiled] = y[0, 0].float().cpu().numpy()
    score_passes(report, images, clean, side)
    for half in (False, True):
        about = dict(size=side, precision='bf16' if half else 'fp32')
        call = partial(apply_net, net, z, half=half, quiet=True)
        report.timed('apply_net, from and to the CPU', call, repeats=3, **about)


def ready_pass(run, z, precision, last, compiled):
    "A function that passes z, already on the device, through the network"
    from mri_diffusion.methods.shipped import load_shipped

    form = torch.channels_last_3d if last else torch.contiguous_format
    net = load_shipped('unet')[0].to(run.device).to(memory_format=form)
    x = torch.from_numpy(z).to(run.device)[None, None].to(memory_format=form)
    if compiled:
        net.compile(backend=run.compiler)
    return partial(one_pass, net, x, precision, run)


def score_passes(report, images, clean, side):
    "What a faster pass loses against the plain one"
    plain = images.get(('fp32', False))
    for (precision, compiled), image in images.items():
        about = dict(size=side, precision=precision, compiled=compiled)
        score = decibels(image, clean)
        report.add('PSNR', score, 'dB', **about)
        if plain is not None and image is not plain:
            report.add('loss against fp32', decibels(plain, clean) - score, 'dB', **about)
            off = float(np.abs(image - plain).max())
            report.add('largest difference from fp32', off, 'sigma', **about)


def denoise(run, report):
    "The whole call on one volume, and the functions of the library in which its time goes"
    from mri_diffusion.app.denoiser import denoise as whole

    side = run.use['sides'][0]
    clean, z = unit_volume(side)
    noisy = np.abs(z).astype(np.float32)
    for how, told in (('sigma estimated', None), ('sigma told', 1.0)):
        call = partial(whole, noisy, told, method='unet', device=run.device, quiet=True)
        _, found = report.timed(f'denoise, {how}', call, 's', repeats=3, size=side)
        if found is not None:
            report.add(f'PSNR, {how}', decibels(found.denoised.data, clean), 'dB', size=side)
    profile = cProfile.Profile()
    report.attempt('stages', profile.runcall, whole, noisy, None, None, 'unet', device=run.device)
    stats = pstats.Stats(profile).stats if profile.getstats() else {}
    ours = [
        (cumulative, calls, f'{Path(file).stem}.{name}')
        for (file, _, name), (_, calls, _, cumulative, _) in stats.items()
        if 'mri_diffusion' in Path(file).parts and '<' not in name
    ]
    total = max((c for c, *_ in ours), default=0)
    for seconds, calls, name in sorted(ours, reverse=True)[:25]:
        if seconds > 0.02 * total:
            report.add(f'stage {name}', seconds, 's', size=side, repeats=calls)


# agreement -----------------------------------------------------------------------------------


def agreement(run, report):
    "CPU and GPU, in units of sigma; two runs with one seed"
    from mri_diffusion.methods.pretrained import apply_net
    from mri_diffusion.methods.shipped import load_shipped

    _, z = unit_volume(run.use['sides'][0] // 2 * 2 if run.tiny else 96)
    net = load_shipped('unet')[0]
    plain = apply_net(net, z, quiet=True)
    for name, half, tf32 in (('fp32', 0, 0), ('tf32', 0, 1), ('bf16', 1, 1)):
        call = partial(apply_net, net.to(run.device), z, half=bool(half), quiet=True)
        both = report.attempt('one pass', twice, call, bool(tf32), precision=name)
        if both:
            compare(report, 'one pass', plain, both, 1.0, precision=name)
    clean, noisy, sigma = run.cut(*run.use['crop'])
    one = noisy.with_data(noisy.data[..., 0])
    for method, scan in (('unet', one), ('unet_pca', noisy)):
        report.attempt(method, whole_agreement, run, report, method, scan, sigma)


def twice(call, tf32):
    "Two results, with convolutions in TF32 or not"
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, tf32
    try:
        return call(), call()
    finally:
        torch.backends.cudnn.allow_tf32 = before


def whole_agreement(run, report, method, scan, sigma):
    from mri_diffusion.app.denoiser import Denoiser

    told = sigma if method == 'unet' else None
    result = lambda d: Denoiser(method, device=d, quiet=True).denoise(scan, told).denoised.data
    both = result(run.device), result(run.device)
    compare(report, method, result('cpu'), both, sigma, size='x'.join(map(str, scan.shape)))


def compare(report, what, plain, both, sigma, **about):
    "Largest and mean difference from the CPU, and between two runs there"
    off = np.abs(both[0] - plain) / sigma
    report.add(f'{what}: largest difference from the CPU', float(off.max()), 'sigma', **about)
    rms = float(np.sqrt(np.mean(off**2)))
    report.add(f'{what}: root mean square difference from the CPU', rms, 'sigma', **about)
    same = bool(np.array_equal(*both))
    report.add(f'{what}: two runs give the same bits', int(same), '1 yes, 0 no', **about)


# trainings -----------------------------------------------------------------------------------


class Pace:
    "Callback of `fit`: the time of every few steps after the first; ends a training by Enough"

    def __init__(self, run, seconds, marks=8):
        self.run, self.seconds, self.marks, self.times = run, seconds, marks, []
        self.every, self.begun, self.last = run.use['every'], time.perf_counter(), None

    def __call__(self, state):
        if state['step'] % self.every:
            return
        self.run.synchronize()
        now = time.perf_counter()
        if self.last is None:
            self.run.forget_peak()
        else:
            self.times.append((now - self.last) / self.every)
        self.last = now
        late = now - self.begun > self.seconds and self.times
        if len(self.times) >= self.marks or late:
            raise Enough


def paced(run, report, what, train, steps, flops=None, seconds=12, **about):
    "Steps a second of train(callbacks), and how long `steps` would take; seconds a step"

    def work():
        pace = Pace(run, seconds)
        with suppress(Enough):
            train([pace])
        took, peak = statistics.median(pace.times), run.peak()
        rates = [1 / t for t in pace.times]
        found = dict(spread=spread(rates), repeats=len(rates), peak_MiB=peak, **about)
        report.add(f'{what}: training', 1 / took, 'steps/s', **found)
        report.add(f'{what}: projected for {steps} steps', steps * took / 3600, 'h', **about)
        if flops:
            share = 100 * flops / took / run.matrix_peak
            report.add(f'{what}: share of the matrix peak', share, '%', **about)
        return took

    return report.attempt(what, work, unit='steps/s', **about)


def step_flops(net, batch, objective, device):
    "Operations forward and backward"
    from torch.utils.flop_counter import FlopCounterMode

    net = net.to(device)
    with FlopCounterMode(display=False) as counter:
        objective(net, {k: v.to(device) for k, v in batch.items()}).backward()
    net.zero_grad()
    return counter.get_total_flops()


def ddm2(run, report):
    "DDM2 at the published sizes: pace of stages I and III, then a walk by each sampler"
    from mri_diffusion.methods.ddm2 import DDM2_PRESETS, prepare_series

    shape = run.use['series']
    clean, noisy, _ = run.cut(*shape[:2], run.use['slab'])
    config = DDM2_PRESETS[run.use['preset']] | run.use['published']
    ready = prepare_series(noisy.data, noisy.bvals, noisy.bvecs, config)
    pace = partial(ddm2_pace, run, report, ready, config, f'{shape[0]}^2')
    operations = {
        stage: report.attempt(f'stage {stage}: operations', ddm2_flops, run, ready, config, stage)
        for stage in (1, 3)
    }
    for precision in run.precisions:
        pace(operations, precision, False)
    data = ddm2_parts(ready, config, 1)[2]
    batch = lambda: [data[i] for i in range(config['batch'])]
    report.timed('stage 1: making a batch on the CPU', batch, size=f'{shape[0]}^2')
    report.attempt('inference', ddm2_inference, run, report, clean, noisy, config)
    pace(operations, 'bf16', True)


def ddm2_pace(run, report, ready, config, size, operations, precision, compiled):
    "Stages I and III, and both together (stage II, which trains nothing, takes seconds)"
    about, total = dict(precision=PRECISIONS[precision], compiled=compiled, size=size), 0.0
    for stage, flops in operations.items():
        train = partial(ddm2_training, run, ready, config, stage, precision, compiled)
        steps = config[f'steps{stage}']
        took = paced(run, report, f'stage {stage}', train, steps, flops, **about)
        total += steps * took if took else math.nan
    if math.isfinite(total):
        report.add('all stages: projected', total / 3600, 'h', **about)


def ddm2_parts(ready, config, stage):
    "Network, objective, data of a stage, as `fit_stage1` and `fit_stage3` put them together"
    from mri_diffusion.learn.schedule import make_schedule
    from mri_diffusion.methods.ddm2 import find_states
    from mri_diffusion.methods.ddm2_stage1 import NeighbourSlices, predict_slice
    from mri_diffusion.methods.ddm2_stage3 import StateSlices, ddm2_objective
    from mri_diffusion.nets.unet import build_network

    unit, table = ready['unit'], ready['table']
    how = dict(patch=config['patch'], dims=config['dims'], n=10_000 * config['batch'])
    if stage == 1:
        net = build_network('diffusion', config['size'], config['dims'], max(map(len, table)))
        return net, predict_slice(config['skip']), NeighbourSlices(unit, table, **how)
    schedule = make_schedule(config['schedule'], config['T'])
    prediction = unit.copy()  # the mean of the neighbours: its noise is a state of the chain
    rows = [v for v, row in enumerate(table) if row]
    for v in rows:
        prediction[..., v] = unit[..., table[v]].mean(-1)
    states = find_states(ready, prediction, config, schedule)
    named = ('shuffle', 'j_invariance', 'continuous', 'share_time', 'skip')
    objective = ddm2_objective(schedule, **{k: config[k] for k in named})
    data = StateSlices(unit, prediction, states.times, schedule, rows, **how)
    return build_network('diffusion', config['size'], config['dims'], 1), objective, data


def ddm2_flops(run, ready, config, stage):
    net, objective, data = ddm2_parts(ready, config, stage)
    items = [data[i] for i in range(config['batch'])]
    batch = torch.utils.data.default_collate(items)
    return step_flops(net, batch, objective, run.device)


def ddm2_training(run, ready, config, stage, precision, compiled, callbacks):
    from mri_diffusion.learn.train import fit

    net, objective, data = ddm2_parts(ready, config, stage)
    if compiled:
        net.body.compile(backend=run.compiler)
    named = ('batch', 'ema', 'clip', 'log_every')
    how = dict(warmup=0.0, weight_decay=0.0, quiet=True, **{k: config[k] for k in named})
    how |= dict(device=run.device, precision=precision, callbacks=callbacks)
    fit(net, objective, data, 10_000, config['lr'], decay='constant', **how)


def ddm2_inference(run, report, clean, noisy, config):
    "A short training, then one slice position of all volumes by each sampler"
    from mri_diffusion.methods.ddm2 import apply_published, fit_published

    steps = run.use['training']
    short = config | dict(steps1=steps[0], steps3=steps[1])
    about = dict(size=f'after {steps[0]} and {steps[1]} steps', precision='fp32')
    where = noisy.bvals, noisy.bvecs, noisy.mask
    nets, learned, *_ = fit_published(
        noisy.data, *where, config=short, device=run.device, quiet=True
    )
    z = clean.shape[2] // 2
    at = (slice(None), slice(None), slice(z, z + 1))
    weighted = noisy.bvals > 100
    mask = np.broadcast_to(clean.mask[at][..., None], clean.data[at][..., weighted].shape)
    score = lambda a: decibels(a[..., weighted], clean.data[at][..., weighted], mask)
    report.add('noisy: PSNR', score(noisy.data[at]), 'dB', **about)
    k = run.use['strides']
    ways = {
        'one step': dict(sampler='one-step'),
        f'{k} strides': dict(sampler='ancestral', sampling_steps=k),
        f'{k} strides, ddim': dict(sampler='ddim', sampling_steps=k),
        'full chain': dict(sampler='ancestral', sampling_steps=0),
    }
    ready = (noisy.data[at], noisy.bvals, noisy.bvecs, noisy.mask[at])
    for name, way in ways.items():
        call = partial(apply_published, nets, learned, *ready, device=run.device, quiet=True, **way)
        _, out = report.timed(f'{name}: all volumes of a slice', call, 's', repeats=1, **about)
        if out is None:
            continue
        times = out['states'].times
        times = times[times > 0]
        one = dict(ddim=k, ancestral=k)[way['sampler']] if way.get('sampling_steps') else 1
        passes = np.ceil(times).mean() if name == 'full chain' else one
        passes = float(passes) * (4 if config['flips'] else 1)
        report.add(f'{name}: passes a slice', passes, 'passes', **about)
        report.add(f'{name}: PSNR', score(out['denoised']), 'dB', **about)
    report.add('stage I alone: PSNR', score(out['prediction']), 'dB', **about)


def series(run, report):
    "A whole series by each fast method"

    clean, noisy, _ = run.series
    weighted = noisy.bvals > 100
    mask = np.broadcast_to(clean.mask[..., None], clean.data[..., weighted].shape)
    score = lambda a: decibels(a[..., weighted], clean.data[..., weighted], mask)
    whole = 'x'.join(map(str, clean.shape))
    report.add('noisy: PSNR', score(noisy.data), 'dB', size=whole)
    for name in ('unet_pca', 'wiener', 'mppca'):
        found = report.attempt(name, one_series, run, report, name)
        if found is not None:
            size = 'x'.join(map(str, found.denoised.shape))
            report.add(f'{name}: PSNR', score(found.denoised.data), 'dB', size=size)


def one_series(run, report, name):
    "The whole series on the device; by a method of the CPU first a slab, and all if time is left"
    from mri_diffusion.app.denoiser import Denoiser

    clean, noisy, _ = run.series
    whole = 'x'.join(map(str, clean.shape))
    there = name == 'unet_pca'
    how = Denoiser(name, device=run.device if there else 'auto', quiet=True)
    if not there:
        scan = run.cut(*clean.shape[:2], max(clean.shape[2] // 10, 5))[1]
        size = 'x'.join(map(str, scan.shape))
        took, _ = report.timed(
            f'{name} (CPU)', partial(how.denoise, scan), 's', 1, False, size=size
        )
        if not took:
            return None
        took *= clean.shape[2] / scan.shape[2]
        report.add(f'{name} (CPU): projected', took, 's', size=whole)
        if report.began + PARTS['series'] - time.perf_counter() < took:
            return None
    label = name if there else f'{name} (CPU)'
    return report.timed(
        label, partial(how.denoise, noisy), 's', 2 if there else 1, False, size=whole
    )[1]


def recipe(run, folder, kind):
    "The names that the experiment `pretrain` defines before it trains; its page is the source"
    page = json.loads((ROOT / 'nbs/experiments/pretrain.ipynb').read_text(encoding='utf-8'))
    names = dict(__name__='pretrain')
    for cell in page['cells']:
        text = ''.join(cell['source'])
        if text.startswith('## The training'):
            return names
        if cell['cell_type'] == 'code':
            exec(compile(text, 'pretrain.ipynb', 'exec'), names)
        if 'parameters' in cell['metadata'].get('tags', []):
            names |= dict(out=str(folder / kind), preset=run.use['recipe'], kind=kind)
            names |= dict(device=run.device, workers=max(1, min(os.cpu_count() or 1, 16)))
    raise RuntimeError('pretrain.ipynb: has no heading "The training"')


def pretrain(run, report):
    "The recipe of the weights in the package: patches, network, both together"
    with tempfile.TemporaryDirectory() as folder:
        for kind in ('unet', 'diffusion'):
            report.attempt(kind, pretrain_one, run, report, Path(folder), kind)


def pretrain_one(run, report, folder, kind):
    p = recipe(run, folder, kind)
    use, workers = p['use'], p['workers']
    kept, other = (folder / k / 'anatomies' for k in (kind, 'unet'))
    if kept != other and other.exists():  # the same ones: invented once
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.symlink_to(other)
    about = dict(size=f'{use["batch"]} x {use["side"]}^3', precision='bf16')
    n = 2 if run.tiny else 48
    since = time.perf_counter()
    list(p['with_patches'](0, n))  # invents what these steps draw from
    report.add(f'{kind}: first {n} steps of patches', time.perf_counter() - since, 's', **about)
    steps = iter(range(10**6))
    alone = f'{kind}: patches of a step, one thread'
    made, _ = report.timed(alone, lambda: p['patches'](next(steps) % n), repeats=n, **about)
    ready = [x.to(run.device) for x in p['patches'](0)]
    only = f'{kind}: network of a step'
    network_s, _ = report.timed(only, lambda: p['one_step'](0, *ready), repeats=n, **about)
    since, done = time.perf_counter(), 0
    for step, *pair in p['with_patches'](0, n):
        p['one_step'](step, *pair)
        done += 1
    run.synchronize()
    took = (time.perf_counter() - since) / done
    full = dict(about, repeats=done)
    report.add(f'{kind}: whole step, {workers} threads make patches', took * 1e3, 'ms', **full)
    report.add(f'{kind}: training', 1 / took, 'steps/s', **full)
    hours = use['steps'] * took / 3600
    report.add(f'{kind}: projected for {use["steps"]} steps', hours, 'h', **full)
    if made and network_s:
        report.add(f'{kind}: share of the network', 100 * network_s / took, '%', **full)


def diffusion(run, report):
    "The diffusion network of the package, and diffdenoise at its published size"
    from mri_diffusion.methods.pretrained import denoise_volume
    from mri_diffusion.methods.shipped import load_shipped

    side = run.use['sides'][0]
    clean, z = unit_volume(side)
    net = load_shipped('diffusion')[0].to(run.device)
    for steps in (1, 4, 10):
        for half in (False, True):
            about = dict(size=side, precision='bf16' if half else 'fp32')
            how = dict(kind='additive', steps=steps, half=half, quiet=True)
            call = partial(denoise_volume, net, z, 1.0, **how)
            name = f'diffusion, {steps} step{"s" * (steps > 1)}'
            _, y = report.timed(name, call, 's', repeats=3, **about)
            if y is not None:
                report.add(f'{name}: PSNR', decibels(y, clean), 'dB', **about)
    report.attempt('diffdenoise', diffdenoise, run, report, z)


def diffdenoise(run, report, z):
    "Pace of the three trainings on slices whose noise has std one"
    from mri_diffusion.methods.diffdenoise import (
        ConditionalDiffusion,
        fit_blind_spot,
        fit_conditional,
        fit_student,
    )
    from mri_diffusion.methods.diffdenoise_scan import DIFFDENOISE_PRESETS, chosen

    c = chosen(DIFFDENOISE_PRESETS[run.use['preset']] | run.use['diffdenoise'])
    states, ones = [np.ascontiguousarray(z[..., :16])], np.ones_like(z[..., :16])
    network2 = ConditionalDiffusion.__init__.__annotations__
    network2 = {k: c[k] for k in network2 if k in c}
    for precision in run.precisions:
        how = dict(patch=c['patch'], batch=c['batch'], ema=c['ema'], precision=precision)
        how |= dict(device=run.device, quiet=True, steps=5000)
        blind = dict(kind=c['blind'], size=c['blind_size'], loss=c['blind_loss'])
        maps = [(states[0], ones)]
        trainings = {
            'blind spot': (partial(fit_blind_spot, states, **blind, **how), 'steps1'),
            'diffusion': (
                partial(fit_conditional, states, maps, network=network2, **how),
                'steps2',
            ),
            'student': (partial(fit_student, states, states, size=c['student'], **how), 'steps'),
        }
        about = dict(precision=PRECISIONS[precision], size=f'{c["batch"]} x {c["patch"]}^2')
        for name, (train, steps) in trainings.items():
            watched = partial(with_callbacks, train)
            paced(run, report, f'diffdenoise, {name}', watched, c[steps], seconds=8, **about)


def with_callbacks(train, callbacks):
    train(callbacks=callbacks)


def resume(run, report):
    "Two trainings with one seed, and one that is interrupted and goes on, to the bit"
    for strict in (False, True):
        about = dict(size='deterministic algorithms asked for' if strict else 'as it is')
        before = torch.are_deterministic_algorithms_enabled()
        try:
            torch.use_deterministic_algorithms(strict)
            report.attempt('training', resumed, run, report, about)
        finally:
            torch.use_deterministic_algorithms(before)


def resumed(run, report, about):
    from mri_diffusion.methods.ddm2 import DDM2_PRESETS, prepare_series

    _, noisy, _ = run.cut(*run.use['crop'][:2], 2)
    config = DDM2_PRESETS[run.use['preset']] | run.use['published']
    config |= dict(steps1=4, batch=4, checkpoint_every=2, log_every=1)
    ready = prepare_series(noisy.data, noisy.bvals, noisy.bvecs, config)
    for precision in run.precisions:
        one = partial(trained, run, ready, config | dict(precision=precision))
        with tempfile.TemporaryDirectory() as folder:
            first, again = one(None, 0), one(None, 0)
            with suppress(Enough):
                one(folder, 3)
            after = one(folder, 0)
        where = dict(about, precision=PRECISIONS[precision])
        for what, other in (('repeated', again), ('interrupted and resumed', after)):
            off = max(float((a - b).abs().max()) for a, b in zip(first, other))
            same = int(all(torch.equal(a, b) for a, b in zip(first, other)))
            report.add(f'training {what}: the same bits', same, '1 yes, 0 no', **where)
            report.add(f'training {what}: largest difference of a weight', off, '1', **where)


def trained(run, ready, config, folder, stop):
    "Weights after stage I; ended after step `stop` if it is not 0"
    from mri_diffusion.methods.ddm2_stage1 import fit_stage1

    def ends(state):
        if stop and state['step'] == stop:
            raise Enough

    how = dict(folder=folder, device=run.device, quiet=True, callbacks=[ends])
    net, _ = fit_stage1(ready['unit'], ready['table'], config, **how)
    return [p.detach().cpu() for p in net.parameters()]


# the run -------------------------------------------------------------------------------------


def run_part(run, name):
    "One part, whose error is written down"
    report = Report(run, name)
    try:
        globals()[name](run, report)
        report.status = 'done'
    except Exception as e:
        report.status, report.error = 'failed', short(e)
        print(f'{name:10} failed: {report.error}', flush=True)
    report.save()
    if run.device == 'cuda':
        torch.cuda.empty_cache()
    return report


def watch(run, states):
    "Ends the process if a part does not come back a minute after the time is over"

    def late():
        write(
            run.folder / 'run.json', json.dumps(dict(machine=run.machine, parts=states), indent=1)
        )
        print('a part did not come back: ended', flush=True)
        os._exit(1)

    clock = threading.Timer(max(run.left(), 0) + LATE, late)
    clock.daemon = True
    clock.start()
    return clock


def main(argv=None):
    "Every part in turn; exit code 0 if all were done, 1 if one failed or there was no time for it"
    say = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    say.add_argument('folder', nargs='?', default=os.environ.get('OUT') or 'runs/gpu')
    say.add_argument('--minutes', type=float, default=9.0, help='no part begins after that')
    say.add_argument('--device', choices=('auto', 'cuda', 'cpu'), default='auto')
    say.add_argument('--tiny', action='store_true', help='every part at a tiny size')
    say.add_argument('--parts', default=','.join(PARTS), help='some of: ' + ', '.join(PARTS))
    a = say.parse_args(argv)
    parts = [p for p in a.parts.split(',') if p]
    if unknown := sorted(set(parts) - set(PARTS)):
        say.error(f'--parts: {", ".join(unknown)}; known: {", ".join(PARTS)}')
    have = torch.cuda.is_available()
    if a.device == 'cuda' and not have or a.device == 'auto' and not have and not a.tiny:
        say.error('torch finds no GPU here; --device cpu --tiny tries the script itself')
    if a.tiny:
        torch.set_num_threads(1)
    run = Run(a.folder, 'cuda' if have and a.device != 'cpu' else 'cpu', a.tiny, a.minutes)
    states = dict.fromkeys(parts, 'not begun: no time left')
    clock = watch(run, states)
    for name in parts:
        if run.left() <= 0:
            report = Report(run, name)
            report.status = states[name]
            report.save()
            continue
        states[name] = 'running'
        states[name] = run_part(run, name).status
        whole = dict(machine=run.machine, minutes=a.minutes, parts=states)
        write(run.folder / 'run.json', json.dumps(whole, indent=1))
    clock.cancel()
    print(', '.join(f'{k}: {v}' for k, v in states.items()))
    return int(any(v != 'done' for v in states.values()))


if __name__ == '__main__':
    sys.exit(main())
