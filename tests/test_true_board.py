"The leaderboard: ties that are none, rows of the shipped networks, lesions in its own column"

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel
from test_leaderboard import board_here

from mri_diffusion.core import InputError, read_json
from mri_diffusion.judge.leaderboard import _chances, summarise_board, ties
from mri_diffusion.judge.lesions import lesion_test
from mri_diffusion.learn.tasks import t1_task
from mri_diffusion.methods.shipped import load_shipped, shipped
from mri_diffusion.methods.unit_scan import denoise_unit

ROOT = Path(__file__).parent.parent
T1 = dict(  # PSNR of three seeds, 300 steps
    nlmeans=(31.32, 31.34, 31.28),
    blur=(29.76, 29.82, 29.76),
    nafnet=(28.44, 29.03, 29.11),
    diffusion=(28.76, 28.90, 27.96),
    diffdenoise=(28.24, 28.23, 28.20),
    noise2score=(27.96, 28.50, 28.05),
    unet=(27.53, 29.01, 27.50),
    corruption2self=(27.69, 27.90, 28.15),
    dip=(24.05, 25.15, 24.97),
    identity=(22.23, 22.25, 22.22),
    floor=(17.31, 17.33, 17.32),
)


def table(column='psnr', **scores):
    rows = [
        {'method': m, 'seed': s, column: v} for m, vs in scores.items() for s, v in enumerate(vs)
    ]
    return pd.DataFrame(rows)


def test_a_large_spread_of_its_own_is_no_tie():
    "28.01 +- 0.86 against 31.31 +- 0.03"
    unet = np.array(T1['unet'])
    assert abs(unet.mean() - 28.01) < 0.01 and abs(unet.std(ddof=1) - 0.86) < 0.01
    assert ttest_rel(T1['nlmeans'], unet, alternative='greater').pvalue > 0.05 / 10  # as before
    told = ties(table(**T1), 'psnr')
    assert told == dict.fromkeys(T1, 'behind') | dict(nlmeans='best')
    for column in ('psnr', 'x'):  # and of the stored rows, and with any limit that is not absurd
        scores = table(column, **T1)
        assert ties(scores, column, matters=1.0)['unet'] == 'behind'
    rows = pd.read_csv(ROOT / 'results/leaderboard.csv')
    rows = rows[(rows.scan == 't1') & (rows.noise == 'rician')]
    assert ties(rows[rows.method.isin(T1)], 'psnr')['unet'] == 'behind'


def test_what_the_seeds_cannot_tell_is_no_tie_either():
    scores = dict(good=(31.0, 31.1, 30.9), wild=(29.0, 31.9, 29.6), near=(30.95, 31.0, 30.92))
    told = ties(table(**scores), 'psnr')
    assert told == dict(good='best', wild='not known', near='tie')
    board = summarise_board(table(**scores), 'psnr')
    assert board.method.tolist() == ['good', 'near', 'wild'] and board['rank'].tolist() == [1, 1, 3]
    alone = ties(table(good=(31.0,), near=(31.0,)), 'psnr')
    assert sorted(alone.values()) == ['best', 'not known']  # one seed shows nothing


def test_the_spread_of_a_pair_is_pooled_only_if_it_is_large():
    x = np.array([[5.0, 4.0, 3.0], [5.1, 4.0, 1.0], [4.9, 4.1, 4.6]])
    p, d = _chances(x), x[:, :, None] - x[:, None, :]
    own = d.var(0, ddof=1)
    pooled = (own[0, 1] + own[0, 2] + own[1, 2]) / 3
    assert own[0, 1] < pooled < own[0, 2]
    exact = ttest_rel(x[:, 0], x[:, 1], alternative='greater').pvalue
    assert abs(p[1, 0] - exact) < 1e-12  # two steady methods: Student's paired test
    spread = np.sqrt((own[0, 2] + pooled) / 2 / 3)
    assert abs(p[2, 0] - student.sf((x[:, 0] - x[:, 2]).mean() / spread, 4)) < 1e-12
    assert np.allclose(p + p.T, 1)
    two = _chances(x[:, :2])  # a pair alone is its own pool
    assert abs(two[1, 0] - exact) < 1e-12
    for unit in (1e-12, 1e12):
        assert np.allclose(_chances(x * unit), p)


def test_a_difference_too_small_to_matter_is_a_tie():
    near = table(a=(30.0, 30.1, 30.2), b=(29.95, 30.05, 30.15), c=(29.85, 29.95, 30.05))
    assert ties(near, 'psnr') == dict(a='best', b='tie', c='behind')
    assert ties(near, 'psnr', matters=0.0) == dict(a='best', b='behind', c='behind')
    assert ties(near, 'psnr', matters=0.15) == dict(a='best', b='tie', c='tie')
    assert ties(near.rename(columns=dict(psnr='x')), 'x', False) == dict(
        a='behind', b='behind', c='best'
    )  # another column has no such limit; lower is better
    assert ties(table(a=(np.inf,) * 3, b=(30.0, 30.1, 30.2)), 'psnr') == dict(a='best', b='behind')
    with pytest.raises(InputError, match='matters -1: give'):
        ties(near, 'psnr', matters=-1)
    with pytest.raises(InputError, match='two rows of one seed'):
        ties(pd.concat([near, near]), 'psnr')


@pytest.mark.parametrize('spreads', [[0.5] * 6, [2.0] + [0.1] * 5, [0.1] + [2.0] * 5])
def test_the_best_method_is_seldom_called_behind(spreads):
    "All are equal but the first, which is a little better; seeds share their noise"
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        x = rng.normal(30, 1, (3, 1)) + np.array(spreads) * rng.normal(size=(3, 6))
        x[:, 0] += 0.01
        wrong += ties(table(**{f'm{i}': v for i, v in enumerate(x.T)}), 'psnr')['m0'] == 'behind'
    assert wrong / 300 < 0.09


def test_shipped_networks_are_rows_with_lesions_and_seconds(tmp_path):
    how = dict(data='t1', methods='identity,nlmeans,shipped', seeds=2, budget=0, largest=30)
    result = board_here(tmp_path / 'run', **how)
    rows = pd.read_csv(tmp_path / 'run/metrics.csv').set_index(['method', 'seed'])
    names = [f'{kind}, shipped' for kind in shipped()]
    assert names and set(rows.index.levels[0]) == {'identity', 'nlmeans', *names}
    assert not result['refused'] and (rows.train_seconds == 0).all() and (rows.steps == 0).all()
    assert (rows.denoise_seconds > 0).all() and (abs(rows.kept['identity'] - 1) < 0.1).all()
    for name in names:
        net = load_shipped(name.split(',')[0])[0]
        task = t1_task(10.0, 1001, 'rician', 1, downsample=4, largest=30)
        apply = lambda x, n=net, s=task.sigma: denoise_unit(x, s, n, quiet=True)['denoised']
        kind = dict(n=6, radius=1.5, contrast=2.5 * task.sigma, seed=1)
        test = lesion_test(
            apply, task.clean.data, task.sigma, task.mask, 'rician', 1001, **kind
        ).scores
        right = (test['bright'] + test['dark']) / 2
        assert abs(rows.kept[name, 1] - right) < 1e-3
        assert rows.parameters[name, 0] == sum(p.numel() for p in net.parameters())
        assert rows.psnr[name].mean() > rows.psnr['identity'].mean() + 3
    page = (tmp_path / 'run/leaderboard.html').read_text()
    assert 'lesions kept' in page and 'denoising, s' in page and names[0] in page
    same = tmp_path / 'run/checkpoint/shipped.json'
    same.write_text(json.dumps(dict.fromkeys(read_json(same), 'other')))
    (tmp_path / 'run/result.json').unlink()
    with pytest.raises(InputError, match='begun with other weights'):
        board_here(tmp_path / 'run', **how)


def test_the_lesions_of_the_board_are_those_of_the_lesion_experiment():
    "Filters, seed by seed: two experiments, one protocol"
    rows, other = (pd.read_csv(ROOT / f'results/{n}.csv') for n in ('leaderboard', 'lesions'))
    if 'kept' not in rows:
        pytest.skip('measured before there was such a column')
    rows = rows[(rows.scan == 't1') & (rows.noise == 'rician')].dropna(subset='kept')
    other = other[other.scan == 'volume'].set_index(['method', 'seed'])[['bright', 'dark']]
    both = rows.set_index(['method', 'seed']).kept.to_frame().join(other.mean(axis=1).rename('x'))
    both = both.loc[['nlmeans', 'blur', 'identity', 'floor']]
    assert len(both.dropna()) == 12 and (both.kept - both.x).abs().max() < 2e-3


def test_rows_of_an_earlier_run_stay_and_say_so(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    gather = __import__('results').gather
    runs, out = tmp_path / 'runs', tmp_path / 'results'

    def run(where, **scores):
        folder = runs / where
        folder.mkdir(parents=True)
        for name, facts in dict(params=dict(noise='rician', snr=10.0), env={}, result={}).items():
            (folder / f'{name}.json').write_text(json.dumps(facts))
        table(**scores).assign(scan='t1').to_csv(folder / 'metrics.csv', index=False)
        return folder

    gather(run('a', old=(1.0, 2.0), again=(3.0, 4.0)), 'board', 'first', out)
    gather(run('b', again=(5.0,), new=(6.0,)), 'board', 'second', out, keep=True)
    rows = pd.read_csv(out / 'board.csv').set_index(['method', 'seed']).sort_index()
    assert rows.psnr.to_dict() == {
        ('again', 0): 5.0,
        ('again', 1): 4.0,
        ('new', 0): 6.0,
        ('old', 0): 1.0,
        ('old', 1): 2.0,
    }
    assert rows.run.tolist() == [2, 1, 2, 1, 1]
    gather(run('c', new=(7.0,)), 'board', 'third', out, keep=True)
    facts = read_json(out / 'board.json')
    assert facts['command'] == 'third' and [e['command'] for e in facts['earlier']] == [
        'first',
        'second',
    ]
    assert pd.read_csv(out / 'board.csv').query("method == 'new'").run.tolist() == [3]
    sys.modules.pop('results', None)
