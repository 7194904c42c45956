"""The self-supervised rivals as a user meets them: trained and used from the command line, going on
after an interruption, what they refuse; and the mathematics that they rest on"""

import json
import signal

import nibabel as nib
import numpy as np
import pytest
import torch

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.learn.risk import DrawProbe
from mri_diffusion.learn.train import fit, validation
from mri_diffusion.methods import dip as selfsup_scan
from mri_diffusion.methods import selfsup
from mri_diffusion.methods.dip import (
    DIP_PRESETS,
    Prior,
    Twins,
    denoise_dip,
    fit_dip,
    hash_of,
    random_code,
)
from mri_diffusion.methods.registry import get_method, methods
from mri_diffusion.methods.selfsup import (
    DrawPair,
    ScoreNet,
    corruption_target,
    other_repeat,
    read_back,
    repeat_groups,
    residual_score,
)
from mri_diffusion.methods.slicewise import apply_slices
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import Scan
from mri_diffusion.scans.patches import PatchDataset

TINY = ['--preset', 'tiny', '--device', 'cpu', '--quiet']
ALL = ['n2n', 'noise2score', 'corruption2self', 'dip']
ALONE = ALL[1:]


@pytest.fixture(scope='module')
def clean():
    "Slices with air around the head, of order 1: 37 x 40 x 4"
    x = load_t1(downsample=4).data[3:40, 8:48, 20:24]
    return np.ascontiguousarray(x / np.percentile(x, 99.9), np.float32)


def noisy_of(clean, seed=0, sigma=0.05):
    return add_noise(clean, sigma, 'rician', gen=generator(seed))


@pytest.fixture(scope='module')
def where(clean, tmp_path_factory):
    "Two volumes, and three repeats with a fourth volume of another kind; no test changes them"
    d = tmp_path_factory.mktemp('selfsup')
    for name, x in dict(
        noisy=noisy_of(clean),
        other=noisy_of(clean, 1),
        series=np.stack([noisy_of(clean * (1 if k < 3 else 0.5), k) for k in range(4)], -1),
    ).items():
        nib.save(nib.Nifti1Image(x, np.diag([-2.0, 2, 3, 1])), d / f'{name}.nii.gz')
    (
        (d / 'series.bval').write_text('0 0 0 1000\n'),
        (d / 'series.bvec').write_text('0 0 0 1\n0 0 0 0\n0 0 0 0\n'),
    )
    return d


def source(where, name):
    return where / ('series.nii.gz' if name == 'n2n' else 'noisy.nii.gz')


def weights(d):
    return d.net.state_dict()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(weights(a).values(), weights(b).values()))


def refused(cli, words, folder, said):
    before = sorted(folder.rglob('*'))
    got = cli(*words)
    line = got.err.split('\r')[-1]
    assert got.code == 2 and not got.out, got
    assert line.startswith('mri-diffusion: error: ') and line.count('\n') == 1 and said in line, (
        line
    )
    assert sorted(folder.rglob('*')) == before


# The command line


@pytest.mark.parametrize('name', ALL)
def test_train_then_denoise(where, cli, tmp_path, name):
    scan = source(where, name)
    assert cli('train', name, scan, '--out', tmp_path / 'm', *TINY).code == 0
    assert read_json(tmp_path / 'm' / 'config.json')['method'] == name and not list(
        (tmp_path / 'm').rglob('checkpoint')
    )
    assert (
        cli(
            'denoise',
            scan,
            tmp_path / 'a.nii.gz',
            '--method',
            name,
            '--model',
            tmp_path / 'm',
            '--residual',
            tmp_path / 'r.nii.gz',
        ).code
        == 0
    )
    got = cli('denoise', scan, tmp_path / 'b.nii.gz', '--method', name, *TINY)
    assert got.code == 0, got.err
    a, b = (Scan.load(tmp_path / f'{n}.nii.gz') for n in 'ab')
    assert np.array_equal(a.data, b.data), 'one training, two ways to it'
    assert (
        a.shape == Scan.load(scan).shape
        and np.isfinite(a.data).all()
        and a.data.min() >= 0
        and np.allclose(a.affine, np.diag([-2.0, 2, 3, 1]))
    )
    record = read_json(tmp_path / 'a.json')
    assert (
        record['Method'] == name and record['Seed'] == 0 and abs(record['Sigma'] / 0.05 - 1) < 0.3
        if name != 'n2n'
        else record['Method'] == name
    )


def test_each_is_listed_with_what_it_needs(cli):
    table = {m['name']: m for m in json.loads(cli('methods', '--json').out)}
    assert set(ALL) | {'nafnet'} <= set(table)
    assert [table[n]['dimensions'] for n in ('n2n', 'noise2score', 'corruption2self', 'dip')] == [
        [4],
        [3, 4],
        [3, 4],
        [3],
    ]
    assert all(get_method(n).needs == 'scan' for n in ALL) and get_method('nafnet').needs == 'pairs'


def test_supervised_nafnet(made, cli, tmp_path):
    got = cli(
        'train',
        'nafnet',
        made / 'noisy.nii.gz',
        '--clean',
        made / 'clean.nii.gz',
        '--out',
        tmp_path / 'm',
        *TINY,
        '--steps',
        3,
    )
    assert got.code == 0, got.err
    assert (
        cli('denoise', made / 'noisy.nii.gz', tmp_path / 'a.nii.gz', '--model', tmp_path / 'm').code
        == 0
    )
    assert Scan.load(tmp_path / 'a.nii.gz').shape == Scan.load(made / 'noisy.nii.gz').shape


@pytest.mark.parametrize('name', ALL)
def test_seeds(where, name):
    scan = Scan.load(source(where, name))
    a, b, c = (
        Denoiser(name, 'tiny', seed=s, quiet=True, device='cpu').fit(scan) for s in (3, 3, 4)
    )
    assert same(a, b) and not same(a, c)
    x, y = (d.denoise(scan) for d in (a, b))
    assert np.array_equal(x.denoised.data, y.denoised.data) and x.meta['seed'] == 3


# Interruption


@pytest.mark.parametrize('name', ALL)
def test_interrupted_training_goes_on_to_the_same_bits(where, tmp_path, monkeypatch, name):
    scan, module = Scan.load(source(where, name)), selfsup_scan if name == 'dip' else selfsup
    real = module.fit

    def stopped(*a, **k):
        "The training, with Ctrl-C after step 7"
        args = list(a)
        at = lambda state: signal.raise_signal(signal.SIGINT) if state['step'] == 7 else None
        args[6] = [*args[6], at]
        return real(*args, **k)

    new = lambda: Denoiser(name, 'tiny', quiet=True, device='cpu')
    with monkeypatch.context() as m:
        m.setattr(module, 'fit', stopped)
        with pytest.raises(KeyboardInterrupt, match='after step 7'):
            new().fit(scan, folder=tmp_path / 't')
    steps = []
    went_on = new().fit(
        scan, folder=tmp_path / 't', callbacks=[lambda state: steps.append(state['step'])]
    )
    whole = new().fit(scan)
    assert steps == list(range(8, 13)) and same(went_on, whole) and went_on.learned == whole.learned


# What is refused


def test_n2n_refuses_what_has_no_repeats(where, cli, tmp_path):
    nib.save(nib.load(where / 'series.nii.gz'), tmp_path / 's.nii.gz')
    words = ['train', 'n2n', tmp_path / 's.nii.gz', '--out', tmp_path / 'm', *TINY]
    refused(cli, words, tmp_path, 'no b-values')
    refused(
        cli,
        ['train', 'n2n', where / 'noisy.nii.gz', '--out', tmp_path / 'm', *TINY],
        tmp_path,
        'it takes series',
    )
    (
        (tmp_path / 's.bval').write_text('0 500 1000 2000\n'),
        (tmp_path / 's.bvec').write_text('0 1 1 1\n0 0 0 0\n0 0 0 0\n'),
    )
    refused(cli, words, tmp_path, 'no measurement of this scan is repeated')
    (tmp_path / 's.bval').unlink(), (tmp_path / 's.bvec').unlink()
    assert cli(*words, '--set', 'repeats', 'all').code == 0


def test_volumes_without_a_repeat(where, cli, tmp_path):
    "Denoised by the same net with a note, or left alone"
    words = ['denoise', where / 'series.nii.gz', tmp_path / 'a.nii.gz', '--method', 'n2n', *TINY]
    assert cli(*words).code == 0 and any(
        'contrast was not learned' in n for n in read_json(tmp_path / 'a.json')['Notes']
    )
    got = cli(
        'denoise',
        where / 'series.nii.gz',
        tmp_path / 'b.nii.gz',
        '--method',
        'n2n',
        '--model',
        tmp_path / 'a_n2n',
        '--set',
        'others',
        'keep',
    )
    assert got.code == 0, got.err
    a, b, x = (
        Scan.load(p).data
        for p in (tmp_path / 'a.nii.gz', tmp_path / 'b.nii.gz', where / 'series.nii.gz')
    )
    assert np.array_equal(a[..., :3], b[..., :3]) and not np.array_equal(a[..., 3], b[..., 3])
    bright = x[..., 3] > 0.3
    assert np.abs(b[..., 3] - x[..., 3])[bright].max() < 0.02, (
        'only the bias of magnitudes is taken out'
    )


def test_dip_knows_one_scan(where, cli, tmp_path):
    assert (
        cli(
            'train', 'dip', where / 'noisy.nii.gz', '--out', tmp_path / 'm', *TINY, '--sigma', 0.05
        ).code
        == 0
    )
    words = ['--method', 'dip', '--model', tmp_path / 'm', '--quiet']
    refused(
        cli,
        ['denoise', where / 'other.nii.gz', tmp_path / 'a.nii.gz', *words, '--sigma', 0.05],
        tmp_path,
        'fitted to another scan',
    )
    refused(
        cli,
        ['denoise', where / 'noisy.nii.gz', tmp_path / 'a.nii.gz', *words, '--sigma', 0.07],
        tmp_path,
        'another noise level',
    )
    refused(
        cli,
        ['denoise', where / 'series.nii.gz', tmp_path / 'a.nii.gz', '--method', 'dip', *TINY],
        tmp_path,
        'it takes volumes',
    )
    assert (
        cli(
            'denoise',
            where / 'noisy.nii.gz',
            tmp_path / 'a.nii.gz',
            *words,
            '--sigma',
            0.05,
            '--seed',
            9,
        ).code
        == 0
    )
    refused(
        cli,
        [
            'train',
            'dip',
            where / 'noisy.nii.gz',
            where / 'other.nii.gz',
            '--out',
            tmp_path / 'n',
            *TINY,
        ],
        tmp_path,
        '2 scans',
    )
    assert hash_of(np.zeros((2, 3, 4))) != hash_of(np.zeros((2, 4, 3)))


BAD = dict(
    noise2score=[('first', 0.01, 'falling'), ('last', 0, 'last=0')],
    corruption2self=[('tau', -1, 'tau='), ('left', 1, 'left='), ('refine', -1, 'refine=')],
    n2n=[('repeats', 'x', 'repeats='), ('others', 'x', 'others=')],
    dip=[
        ('step', 0, 'step='),
        ('look', 0, 'look='),
        ('inputs', 0, 'inputs='),
        ('channels', '8,8', 'channels='),
        ('channels', '8,9,8', 'channels='),
    ],
)


@pytest.mark.parametrize(
    'name, setting, value, said',
    [
        (n, *row)
        for n, rows in BAD.items()
        for row in rows + [('lr', 0, 'lr='), ('batch', 0, 'batch='), ('noise', 'x', 'noise=')]
    ],
)
def test_bad_settings(where, cli, tmp_path, name, setting, value, said):
    refused(
        cli,
        [
            'train',
            name,
            source(where, name),
            '--out',
            tmp_path / 'm',
            *TINY,
            '--set',
            setting,
            value,
        ],
        tmp_path,
        said,
    )


@pytest.mark.parametrize('name', ALONE)
def test_bad_scans(where, name):
    d = Denoiser(name, 'tiny', quiet=True, device='cpu')
    for x, said in (
        (np.ones((32, 32, 2), np.float32), 'constant'),
        (np.random.default_rng(0).random((12, 32, 2), np.float32), 'at least 16'),
    ):
        with pytest.raises(InputError, match=f'^{name}: .*{said}') as e:
            d.fit(x)
        assert '\n' not in str(e.value) and 'diffdenoise:' not in str(e.value)


def test_n2n_learns_from_a_series():
    with pytest.raises(InputError, match='^n2n: a scan of shape'):
        selfsup.fit_selfsup('n2n', [np.ones((20, 20, 2))], selfsup.SELFSUP['n2n'].presets['tiny'])


@pytest.mark.parametrize('name', ALL)
def test_correlated_noise_is_named(name):
    "Where voxels must be independent a note says that they are not"
    t1 = load_t1(downsample=2).data[10:-10, 20:-20, 40:44]
    x = add_noise(
        t1 / np.percentile(t1, 99.9), 0.06, 'gaussian', correlation=(0.8, 0.8, 0), gen=generator(0)
    )
    part = selfsup.scan_of(name, x, {}, selfsup.presets_of({})['tiny'])
    assert (
        any('warning: neighbours predict' in n for n in part['notes']) == (name != 'n2n')
        and part['kernel'] is not None
    )


# Mathematics


def test_repeats_are_found():
    g = (
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [1, 0, 0], [1, 0.1, 0]])
        / np.array([1, 1, 1, 1, 1, 1.01**0.5])[:, None]
    )
    assert [r.tolist() for r in repeat_groups(6, [0, 1000, 1000, 1005, 2000, 1000], g)] == [[1, 3]]
    assert [r.tolist() for r in repeat_groups(4, [0, 5, 5, 900])] == [[0, 1, 2]] and repeat_groups(
        1, repeats='all'
    ) == []


def test_a_pair_is_never_a_volume_with_itself():
    got = [
        DrawPair()(dict(repeats=torch.arange(4.0)[:, None, None]), generator(s)) for s in range(600)
    ]
    counts = np.zeros((4, 4), int)
    for d in got:
        counts[int(d['noisy']), int(d['target'])] += 1
    assert counts.diagonal().sum() == 0 and counts[~np.eye(4, dtype=bool)].min() > 25


def test_noise2noise_learns_what_clean_targets_teach():
    "The best straight line from one repeat to another is that from a repeat to the truth"
    gen = generator(0)
    x = 3 + 2 * torch.randn(400_000, generator=gen)
    y1, y2 = x + torch.randn(x.shape, generator=gen), x + torch.randn(x.shape, generator=gen)
    best = lambda target: np.polyfit(y1.numpy(), target.numpy(), 1)
    assert np.allclose(best(y2), best(x), atol=0.02) and abs(best(y2)[0] - 4 / 5) < 0.01
    line = lambda fit: lambda z: torch.as_tensor(np.polyval(fit, z.numpy()))
    assert (
        abs(float(other_repeat(line(best(x)), dict(noisy=y1, target=y2))) - 4 / 5 - 1) < 0.02
    )  # error of the posterior mean, and the noise of the target


def test_noise2score_finds_the_posterior_mean():
    "For a Gaussian prior N(m, P) Tweedie's formula gives m + P (y - m)/(P + 1)"
    m, P, rng = 3.0, 2.0, np.random.default_rng(0)
    x = m + P**0.5 * rng.standard_normal((64, 64, 6))
    y = (x + rng.standard_normal(x.shape)).astype(np.float32)
    net = ScoreNet('tiny', 16.0, steps=200)
    fit(
        net,
        residual_score,
        PatchDataset([dict(noisy=y)], (32, 32, 1), 1600, 0, corrupt=DrawProbe()),
        200,
        4e-3,
        batch=8,
        quiet=True,
    )
    out, best = apply_slices(net, y, quiet=True), m + P / (P + 1) * (y - m)
    assert abs(np.polyfit(y.ravel(), out.ravel(), 1)[0] - P / (P + 1)) < 0.08 and np.sqrt(
        ((out - best) ** 2).mean()
    ) < 0.2 * np.sqrt(((y - best) ** 2).mean())


def test_the_residual_autoencoder_at_its_minimiser():
    "For z ~ N(0, 1 + P) and f(z) = g z the loss is least at g = 1 - 1/(1 + P + a^2)"
    P, a = 2.0, 0.5
    z, u = (
        torch.randn(200_000, generator=generator(0)) * (1 + P) ** 0.5,
        torch.randn(200_000, generator=generator(1)),
    )
    loss = lambda g: float(
        residual_score(
            lambda noisy, probe: a * ((g - 1) * (noisy + a * probe)), dict(noisy=z, probe=u)
        )
    )
    gains = np.linspace(0.3, 1.0, 141)
    assert abs(gains[np.argmin([loss(g) for g in gains])] - (1 - 1 / (1 + P + a * a))) < 0.02


@pytest.mark.parametrize('tau, refine', [(0.7, 0.0), (2.0, 0.0), (2.0, 0.1), (2.0, 1.0)])
def test_corruption2self_at_its_minimiser(tau, refine):
    "The gain of least loss is that of the posterior mean; the refinement moves it by its weights"
    P, left = 3.0, 3**-0.5
    z = (1 + P) ** 0.5 * torch.randn(50_000, 1, 1, 1, generator=generator(0))
    batch = dict(
        noisy=z, probe=torch.randn(z.shape, generator=generator(1)), tau=torch.full(z.shape, tau)
    )
    gains = np.linspace(0, 1, 201)
    objective = corruption_target(refine, left)
    losses = [float(objective(lambda x, s, g=g: g * x, batch)) for g in gains]
    least = gains[np.argmin(losses)]
    k = [tau**2 / (tau**2 + 1 - r * r) for r in (0, left)]
    q = tau**2 * (k[0] + refine * k[1]) / (k[0] ** 2 + refine * k[1] ** 2)
    assert abs(least - (1 - q / (P + 1 + tau**2))) < 0.03 and (
        refine or abs(1 - q / (P + 1 + tau**2) - P / (P + 1 + tau**2)) < 1e-9
    )


def test_reading_back_is_tweedie_twice():
    "From the posterior mean of x to that of x + n, and from a guess that keeps r of the noise"
    P, tau, xt = 3.0, 1.7, np.linspace(-4, 4, 9)
    behind = lambda noise: (
        (P + noise) / (P + 1 + tau**2) * xt
    )  # mean of x + (part of the noise with this variance)
    assert np.allclose(read_back(behind(0), xt, tau), behind(1)) and np.allclose(
        read_back(behind(0.25), xt, tau, 0.5), behind(1)
    )


def test_dip_risk_is_the_true_error(clean):
    "Stein's estimate, from a second fit to slightly different data, is the true error"
    sigma, truth = 0.08, clean / 0.08
    noisy = add_noise(clean, sigma, 'gaussian', gen=generator(0))
    how = DIP_PRESETS['tiny'] | dict(
        channels=(16, 16, 32), inputs=8, steps=160, look=20, slices=9, batch=4, lr=1e-2
    )
    inside = selfsup.scan_of('dip', noisy, dict(sigma=sigma), how)['weights'] == 1
    code = random_code(noisy.shape, 8)

    def true(net):
        return dict(
            true=float(((apply_slices(net.first, code, quiet=True) - truth)[inside] ** 2).mean())
        )

    net, learned, history = fit_dip(
        [noisy], None, how, callbacks=[validation(true, 20)], facts=[dict(sigma=sigma)], quiet=True
    )
    seen = history.dropna(subset=['risk'])
    assert len(seen) == 8 and np.abs(seen.risk - seen.true).max() < 0.15 * max(
        1, seen.true.max()
    ), seen[['risk', 'true']]
    assert learned['stop'] == seen.step.iloc[int(seen.risk.argmin())] and np.isclose(
        learned['risk'], seen.risk.min()
    )
    out = denoise_dip(noisy, sigma, how, net, learned, quiet=True)['denoised']
    assert (
        abs(
            float(((out / sigma - truth)[inside] ** 2).mean())
            - seen.true[seen.step == learned['stop']].item()
        )
        < 0.05 * learned['risk'] + 0.05
    )


def test_twins_keep_the_best_and_only_that():
    twins = Twins(Prior((8, 8, 8), 2))
    for k, risk in enumerate((3.0, 1.0, 2.0)):
        for p in twins.first.parameters():
            p.data.fill_(k)
        twins.note(risk)
    assert (
        all((p == 1).all() for p in twins.chosen().parameters())
        and int(twins.best) == 2
        and float(twins.risk) == 1
    )


def test_codes():
    a = random_code((6, 8, 20), 3, 0)
    assert (
        a.shape == (6, 8, 20, 3)
        and np.allclose(a.std((0, 1, 2)), 1, atol=1e-5)
        and np.array_equal(a, random_code((6, 8, 20), 3, 0))
        and not np.array_equal(a, random_code((6, 8, 20), 3, 1))
    )
    near = lambda axis: np.corrcoef(
        np.take(a, range(a.shape[axis] - 1), axis).ravel(),
        np.take(a, range(1, a.shape[axis]), axis).ravel(),
    )[0, 1]
    assert near(2) > 0.8 and abs(near(0)) < 0.15


def test_all_are_in_the_registry():
    assert set(ALL) | {'nafnet'} <= set(methods())
