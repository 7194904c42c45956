"""Complex data against magnitudes, on a known truth: `complex.py [CSV [TRUTH ...]]`.

Truths: `volume`, a T1 head with a smooth phase; `series`, a diffusion series on the phantom, each
slice of each volume with a phase of its own (scored on its b = 3000); `echo`, the third echo of a
real gradient echo (magnitude and phase, from the shared data where they are), whose own noise is
small beside what is added. SNR is the median signal in the brain over sigma: 1, 2, 3, 5; three
seeds. Ways: `magnitude` as it is, `corrected` (the method's own Rician correction), `complex`
(magnitude of the denoised complex image), `real` (the real channel), and for series `joint` (both
channels as one series of twice the volumes). Magnitudes are told the true sigma; complex data
measure their own. `bias` is the mean of denoised - truth in the inner brain, `floor` that in the
air, both in sigma; `psnr` is in the brain.

`complex.py learn [CSV]` compares what a method that learns from the scan itself may learn from, with
small networks and short trainings, at SNR 2 and 5: the real channel, applied to both (`one`), both
channels (`both`), or each channel by itself (`two`); `real` is the real channel of `one`, beside
methods that learn nothing. `seconds` are those of the processor, training and denoising together.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, zoom

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import InputError, environment, write_json
from mri_diffusion.noise.phase import demodulate
from mri_diffusion.phantoms.heads import load_t1, make_gradients, shared_data, simulate_dmri
from mri_diffusion.scans.complex import ComplexScan
from mri_diffusion.scans.nifti import Scan

SNRS, SEEDS = (1, 2, 3, 5), 3
VOLUME = dict(nlmeans=dict(remove_bias=True), unet={}, diffusion={})
SERIES = dict(mppca=dict(remove_bias=True), wiener={}, unet_pca={})
METHODS = dict(volume=VOLUME, echo=dict(nlmeans=VOLUME['nlmeans'], unet={}), series=SERIES)


def smooth_phase(shape, rng, turns=1.0):
    "(X, Y, Z) radians: a random quadratic, and a field with a few bumps"
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing='ij')
    a = rng.normal(size=7) * turns
    bumps = rng.normal(size=(5, 5, 4)) * turns
    field = zoom(bumps, np.array(shape) / bumps.shape, order=3)
    return 4 * a[0] * x + 4 * a[1] * y + a[2] * z + a[3] * x**2 + a[4] * y**2 + a[5] * x * y + field


def volume(rng):
    "Truth, phase, brain, air, volumes that are scored, table"
    t1 = load_t1(downsample=3)
    at = np.s_[:, :, 22:42]
    s = 100 * t1.data[at]
    return s, smooth_phase(s.shape, rng), t1.mask[at], s < 0.1, None, None


def series(rng):
    "The same for a series: every slice of every volume has an angle and a ramp of its own"
    table = make_gradients({1000: 6, 3000: 20}, 3)
    scan, _ = simulate_dmri(*table, shape=(30, 36, 8), voxel_size=5.0)
    phases = [smooth_phase(scan.shape[:3], rng, 0.6) for _ in scan.bvals]
    phi = np.stack(phases, -1) + rng.uniform(-np.pi, np.pi, (1, 1, *scan.shape[2:]))
    air = scan.data.max(-1) < 1
    return scan.data, phi, scan.mask, air, scan.bvals > 2000, table


def echo(rng):
    "The same for a real third echo"
    folder = shared_data('complex_gre')
    z = ComplexScan.load(folder / 'mag.nii.gz', folder / 'phase.nii.gz').data[..., 2]
    z = z[:, :, 10:30] / np.median(abs(z)) * 100
    return abs(z), np.angle(z), np.ones(z.shape, bool), np.zeros(z.shape, bool), None, None


def answers(method, settings, z, sigma, table):
    "(way, function that gives the denoised image) for each way to denoise a complex image by a method"
    bvals, bvecs = table or (None, None)
    say = lambda **more: Denoiser(method, quiet=True, **{**settings, **more})
    magnitude = Scan.from_array(abs(z), None, bvals, bvecs)
    yield 'noisy', lambda: abs(z)
    if 'remove_bias' in settings:
        plain = say(remove_bias=False)
        yield 'magnitude', lambda: plain.denoise(magnitude, sigma).denoised.data
    yield 'corrected', lambda: say().denoise(magnitude, sigma).denoised.data
    scan = ComplexScan.from_array(z, None, bvals, bvecs)
    result = say().denoise(scan, part='complex')
    yield 'complex', lambda: result.denoised.data
    found = demodulate(scan)
    yield 'real', lambda: (result.complex.data * found.turn.conj()).real
    if table is not None:
        yield 'joint', lambda: joint(say(), found)


def joint(denoiser, found):
    "Both channels as one series of twice the volumes"
    both = np.concatenate([found.real.data, found.imaginary.data], -1)
    scan = Scan.from_array(both)
    scan.sidecar = {'DataKind': 'signed'}
    a, b = np.split(denoiser.denoise(scan, found.sigma).denoised.data, 2, -1)
    return np.hypot(a, b)


def scores(x, s, sigma, brain, air, wanted):
    "Bias, floor and PSNR of a denoised image"
    if wanted is not None:
        x, s = x[..., wanted], s[..., wanted]
    inner = binary_erosion(brain, iterations=2) if not brain.all() else brain
    mse = ((x - s)[brain] ** 2).mean()
    floor = float((x - s)[air].mean() / sigma) if air.any() else np.nan
    peak = float(np.percentile(s[brain], 99.9))
    return dict(
        bias=float((x - s)[inner].mean() / sigma),
        floor=floor,
        psnr=10 * np.log10(peak**2 / float(mse)),
    )


def rows(truth):
    "One row for each SNR, seed, method and way"
    for snr in SNRS:
        for seed in range(SEEDS):
            rng = np.random.default_rng([seed, snr])
            s, phi, brain, air, wanted, table = globals()[truth](rng)
            weak = s if wanted is None else s[..., wanted]
            sigma = float(np.median(weak[brain])) / snr
            a = rng.normal(size=(2, *s.shape)) * sigma
            z = (s * np.exp(1j * phi) + a[0] + 1j * a[1]).astype(np.complex64)
            for method, settings in METHODS[truth].items():
                for way, answer in answers(method, settings, z, sigma, table):
                    about = dict(truth=truth, snr=snr, seed=seed, method=method, way=way)
                    yield about | scores(answer(), s, sigma, brain, air, wanted)


def write(done, path, left):
    "The rows as a table, those of the noisy image once, and how they were made"
    frame = pd.DataFrame(done).round(4)
    noisy = frame.way == 'noisy'  # the same for every method
    first = frame[noisy].drop_duplicates(['truth', 'snr', 'seed']).assign(method='none')
    pd.concat([first, frame[~noisy]]).to_csv(path, index=False)
    facts = dict(command=f'python tools/complex.py {path}', snrs=SNRS, seeds=SEEDS, left_out=left)
    write_json(path.with_suffix('.json'), facts | dict(environment=environment()), force=True)


_SMALL = dict(steps=120, patch=48, batch=4, size='tiny')
_STAGES = dict(steps1=100, steps2=0, steps=100, blind_size='tiny', student='tiny')
_DRAWN = dict(channels=(8, 16, 32, 32), steps=100, batch=4, look=10)
_BLOCKS = dict(features=(16, 16, 32), block=(16, 16, 8), steps=200, probes=0, ensemble=False)
LEARN = dict(
    series=dict(r2r=_BLOCKS, pca=None, wiener=None, unet_pca=None),
    volume=dict(
        noise2score=_SMALL,
        diffdenoise=dict(_STAGES, patch=48, batch=4),
        dip=_DRAWN,
        nlmeans=None,
        unet=None,
    ),
)  # Truth -> method -> its settings; None: it learns nothing from the scan
WAYS = dict(dip=('two',))  # It knows the one image that it learned


def smaller(truth, rng):
    "A truth cut to what short trainings can learn in a few seconds"
    s, phi, brain, air, wanted, table = globals()[truth](rng)
    at = np.s_[:, :, 6:14] if truth == 'volume' else np.s_[:, :, 1:7]
    return s[at], phi[at], brain[at], air[at], wanted, table


def channels(d, scan, found, way):
    "Real and imaginary channel as a denoiser gives them that has learned in this way"
    if way == 'one':
        z = d.denoise(scan, part='complex').complex.data * found.turn.conj()
        return z.real, z.imag
    a, b = found.real, found.imaginary
    if way == 'both':
        d.fit([a, b], sigma=[found.sigma] * 2)
        return tuple(d.apply(x, found.sigma).denoised.data for x in (a, b))
    fresh = lambda: Denoiser(d.method.name, seed=d.seed, quiet=True, **d.config)
    return tuple(fresh().denoise(x, found.sigma).denoised.data for x in (a, b))


def learned_rows(truth, snr, seed):
    "One row for each method and way to learn; the first way of each gives its real channel too"
    rng = np.random.default_rng([seed, snr])
    s, phi, brain, air, wanted, table = smaller(truth, rng)
    sigma = float(np.median((s if wanted is None else s[..., wanted])[brain])) / snr
    a = rng.normal(size=(2, *s.shape)) * sigma
    z = (s * np.exp(1j * phi) + a[0] + 1j * a[1]).astype(np.complex64)
    scan = ComplexScan.from_array(z, None, *(table or (None, None)))
    found = demodulate(scan)
    for method, settings in LEARN[truth].items():
        ways = WAYS.get(method, ('one', 'both', 'two') if settings else ('one',))
        for way in ways:
            about = dict(truth=truth, snr=snr, seed=seed, method=method)
            d = Denoiser(method, seed=seed, quiet=True, **(settings or {}))
            start = time.process_time()
            try:
                x, y = channels(d, scan, found, way)
            except InputError as e:
                yield about | dict(way=way, psnr=np.nan, said=str(e))
                continue
            spent = dict(seconds=time.process_time() - start)
            known = s, sigma, brain, air, wanted
            if way == ways[0]:
                yield about | dict(way='real') | scores(x, *known)
            yield about | dict(way=way) | scores(np.hypot(x, y), *known) | spent


def learn(path='results/complex_learn.csv'):
    "Write the table of what a network learns from; what refuses has no numbers, and says why"
    done = []
    for truth in LEARN:
        for snr in (2, 5):
            for seed in range(SEEDS):
                for row in learned_rows(truth, snr, seed):
                    done.append(row)
                    print(row, file=sys.stderr)
    said = [{k: r[k] for k in ('method', 'way', 'snr', 'said')} for r in done if 'said' in r]
    frame = pd.DataFrame(done).drop(columns='said', errors='ignore')
    frame.round(4).to_csv(path, index=False)
    facts = dict(command=f'python tools/complex.py learn {path}', settings=LEARN, refused=said)
    write_json(Path(path).with_suffix('.json'), facts | dict(environment=environment()), force=True)


def main(path='results/complex.csv', *truths):
    "Write the table; a truth whose data are not there is left out and said"
    path, done, left = Path(path), [], []
    for truth in truths or METHODS:
        if truth == 'echo' and shared_data('complex_gre') is None:
            left.append('echo: shared/data/complex_gre is not there')
            continue
        for row in rows(truth):
            done.append(row)
            print(row, file=sys.stderr)
        write(done, path, left)


if __name__ == '__main__':
    learn(*sys.argv[2:]) if sys.argv[1:2] == ['learn'] else main(*sys.argv[1:])
