"The experiment weights: the same numbers as by hand, nothing twice, and plain refusals"

import json
import os
import re
from functools import partial
from pathlib import Path
from unittest import mock

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest

from mri_diffusion.app.experiments import experiments_folder
from mri_diffusion.core import InputError, generator
from mri_diffusion.judge.scores import psnr
from mri_diffusion.learn.tasks import t1_task
from mri_diffusion.methods.classical import nlmeans
from mri_diffusion.methods.pretrained import load_net, save_net
from mri_diffusion.methods.shipped import load_shipped
from mri_diffusion.methods.unit_scan import denoise_unit
from mri_diffusion.noise.models import add_noise
from mri_diffusion.scans.nifti import Scan

matplotlib.use('agg')
results = Path(__file__).resolve().parents[1] / 'results'
small_t1 = partial(t1_task, largest=30)  # The middle of what the experiment judges


def run(folder=None, **params):
    "The cells of the experiment in this process; what they left"
    nb = nbformat.read(experiments_folder() / 'weights.ipynb', 4)
    names = dict(__name__='weights', __builtins__=__builtins__)
    with mock.patch.dict(os.environ, MRI_DIFFUSION_QUIET='1'):
        for c in (c for c in nb.cells if c.cell_type == 'code'):
            exec(c.source, names)
            if 'parameters' in c.metadata.get('tags', []):
                names |= dict(params, out=None if folder is None else str(folder))
            if 'import image_task, t1_task' in c.source:
                names['t1_task'] = small_t1
    return names


def net_at(folder, kind, part, **facts):
    "The network of the package that removes only a part of what it would remove"
    net, _ = load_shipped(kind)
    net.body.last.weight.data *= part
    return save_net(folder, net, 'u32', dict(kind=kind) | facts)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Two networks of one training, one that walks, and a small FLAIR"
    d = tmp_path_factory.mktemp('weights')
    net_at(d / 'plain/10', 'unet', 0.8, step=10)
    net_at(d / 'plain/20', 'unet', 1.0, step=20)
    net_at(d / 'walks', 'diffusion', 0.9)
    (d / 'data/flair').mkdir(parents=True)
    x = small_t1(10.0, downsample=4).clean.data
    Scan.from_array(np.tile(x, (2, 2, 1))[..., :8] * 300, np.eye(4)).save(
        d / 'data/flair/flair.nii.gz'
    )
    return d


@pytest.fixture(scope='module')
def ran(made):
    "All cases but the clock, on the embedded scans and the small FLAIR"
    return run(
        made / 'run',
        nets=f'{made}/plain/20,{made}/walks',
        curve=f'{made}/plain',
        data=str(made / 'data'),
        steps='1,3',
        cases='t1,lesions,flair,told,repeats,other,hard,series,clean,levels,curve',
    )


def values(ran, method, case, score):
    return ran['numbers'](method, case, score)


def test_the_t1_case_is_what_one_gets_by_hand(ran, made):
    t = small_t1(10.0, 1000, 'rician', downsample=4)
    net, _ = load_net(made / 'plain/20')
    for name, x in {
        'identity': t.noisy.data,
        'nlmeans': nlmeans(t.noisy.data, t.sigma),
        '20': denoise_unit(t.noisy.data, t.sigma, net)['denoised'],
    }.items():
        found = values(ran, name, 't1', 'psnr')['judged half'][0]
        assert found == pytest.approx(psnr(x, t.clean.data, t.mask), abs=1e-4), name


def test_a_wrong_sigma_costs_what_it_costs_by_hand(ran):
    t = small_t1(10.0, 1000, 'rician', downsample=4)
    at = lambda r: psnr(nlmeans(t.noisy.data, r * t.sigma), t.clean.data, t.mask)
    loss = values(ran, 'nlmeans', 'told', 'loss')
    assert loss['T1, -30 %'][0] == pytest.approx(at(1) - at(0.7), abs=1e-4)
    assert {'T1, +30 %', 'FLAIR, -30 %', 'FLAIR, +30 %'} < set(loss)


def test_the_trivial_operators_have_trivial_scores(ran):
    for case, score in (('told', 'loss'), ('clean', 'change')):
        assert all((v == 0).all() for v in values(ran, 'identity', case, score).values())
    assert 0.9 < values(ran, 'identity', 'lesions', 'kept')['judged half'][0] < 1.1
    assert values(ran, 'blur', 'lesions', 'kept')['judged half'][0] < 0.9
    same = ran['against']('identity', 'series', 'fa_error', values(ran, 'identity', 'series',
                                                                   'fa_error'))  # fmt: skip
    assert same and all((v == 0).all() for v in same.values())


def test_the_best_filter_is_never_behind_a_filter(ran):
    best = ran['best_filter']()
    assert len(best) == 16  # T1 and FLAIR, thin and thick, 1 and 8 coils, white and not
    filters = [k for k, m in ran['methods'].items() if m.role in ('filter', 'rival', 'trivial')]
    assert len(filters) == 12
    for name in filters:
        ahead = ran['against'](name, 'hard', 'psnr', best)
        assert set(ahead) == set(best) and max(v.mean() for v in ahead.values()) <= 0


def test_eight_coils_and_thick_slices_are_what_they_say(ran):
    clean = ran['hard_targets']()
    assert clean['T1 thick'].shape[2] == clean['T1'].shape[2] // 5
    assert np.allclose(clean['T1'][3, 4, :5].mean(), clean['T1 thick'][3, 4, 0])
    name = 'T1, 8 coils, white'
    mask = ran['auto_mask'](clean['T1'])
    sigma = float(np.median(clean['T1'][mask]) / 10)
    x = add_noise(clean['T1'], sigma, 'ncchi', 8, gen=generator(1000))
    found = values(ran, 'identity', 'hard', 'psnr')[name][0]
    assert found == pytest.approx(psnr(x, clean['T1'], mask), abs=1e-4)


def test_longer_walks_are_rows_of_their_own(ran):
    cases = lambda name: set(ran['table'][ran['table'].method == name].case)
    assert cases('walks, 3 steps') == {'t1', 'levels'} < cases('walks')
    levels = [values(ran, k, 'levels', 'psnr')['T1, SNR 4'][0] for k in ('walks', 'walks, 3 steps')]
    assert levels[0] != levels[1]


def test_the_curve_has_a_point_for_each_checkpoint(ran):
    at = [values(ran, f'plain {n}', 'curve', 'psnr')['T1'][0] for n in (10, 20)]
    assert at[0] != at[1] and at[1] == values(ran, '20', 't1', 'psnr')['judged half'][0]
    assert 'hard' not in set(ran['table'][ran['table'].method == 'plain 10'].case)


def test_what_is_not_there_is_left_out_with_its_reason(ran):
    left = ran['result']['skipped']
    assert set(left) == {'repeats', 'other', 'series', 'b0'}
    assert all('not in the folder' in why for why in left.values())
    assert not {'repeats', 'other'} & set(ran['table'].case)
    assert set(values(ran, '20', 'series', 'fa_error')) == {'phantom, SNR 10', 'phantom, SNR 20'}


def test_a_target_is_missed_reached_or_as_hoped_for(ran):
    say = ran['verdict']
    assert [say(v, 33.1, 33.8, True) for v in (33.0, 33.1, 33.9)] == ['missed', 'must', 'aim']
    assert [say(v, 0.7, 0.4, False) for v in (0.71, 0.7, 0.3)] == ['missed', 'must', 'aim']
    t = ran['targets'].set_index(['target', 'method']).value
    assert t['sigma told 30 % wrong', 'nlmeans'] == pytest.approx(
        max(v.mean() for v in values(ran, 'nlmeans', 'told', 'loss').values())
    )
    ahead = ran['against']('20', 'hard', 'psnr', ran['best_filter']())
    worst = min(v.mean() for v in ahead.values())
    assert t['hard noise, to the best filter', '20'] == pytest.approx(worst)


def test_a_run_that_was_interrupted_goes_on(ran, made):
    folder, file = made / 'run', made / 'run/checkpoint/rows.csv'
    whole = pd.read_csv(file)
    whole[whole.method != 'walks, 3 steps'].to_csv(file, index=False)
    again = run(folder, **ran['run'].params)['table']
    took = lambda t: t[(t.score == 'took') & (t.method == '20')].value.tolist()
    assert took(again) == took(ran['table'])  # not measured again
    key = ['method', 'case', 'setting', 'score', 'seed']
    both = [t[t.score != 'took'].set_index(key).value.sort_index() for t in (again, ran['table'])]
    pd.testing.assert_series_equal(*both)


def test_a_network_that_learns_from_each_scan_is_a_row_of_its_own(made):
    how = dict(nets=f'{made}/plain/20', cases='t1,levels', filters='', steps='1')
    ran, t = run(tune=3, **how), small_t1(10.0, 1000, 'rician', downsample=4)
    net, _ = load_net(made / 'plain/20')
    x = denoise_unit(t.noisy.data, t.sigma, net, tune=3, quiet=True)['denoised']
    found = values(ran, '20, tuned', 't1', 'psnr')['judged half'][0]
    assert found == pytest.approx(psnr(x, t.clean.data, t.mask), abs=1e-4)
    assert values(ran, '20', 'levels', 'psnr') and not values(ran, '20, tuned', 'levels', 'psnr')
    assert list(ran['targets'][ran['targets'].method == '20, tuned'].target) == ['T1, SNR 10']


def test_the_clock_stands_beside_that_of_dipy(made):
    ran = run(nets=str(made / 'walks'), cases='seconds', filters='')
    r = {k: values(ran, 'walks', 'seconds', k)['two threads'][0]
         for k in ('seconds', 'nlmeans_seconds', 'ratio')}  # fmt: skip
    assert r['seconds'] > 0 and r['ratio'] == pytest.approx(
        r['seconds'] / r['nlmeans_seconds'], rel=1e-3
    )
    assert list(ran['targets'].target) == ['seconds, to DIPY nlmeans']


@pytest.mark.parametrize(
    'params, said',
    [
        (dict(preset='huge'), "preset 'huge': unknown; choose from smoke, laptop, full"),
        (dict(nets='nowhere'), 'nets nowhere: neither shipped'),
        (dict(filters='bm5d'), "filters 'bm5d': unknown"),
        (dict(cases='t2'), "cases 't2': unknown"),
        (dict(steps='0'), "steps '0': give whole numbers"),
        (dict(curve='nowhere'), 'curve nowhere: no folders of networks in it'),
        (dict(seeds=-1), 'seeds'),
        (dict(tune=-1), 'tune'),
        (dict(strength=3.0, cases='t1'), 'strength'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(params, said):
    with pytest.raises(InputError, match=re.escape(said)) as e:
        run(**params)
    assert '\n' not in str(e.value)


def test_the_kept_table_stands_on_the_kept_numbers():
    "results/weights.json against results/weights.csv"
    facts = json.loads((results / 'weights.json').read_text())
    rows = pd.read_csv(results / 'weights.csv')
    mean = rows.groupby(['method', 'case', 'setting', 'score']).value.mean()
    of = {'T1, SNR 10': ('t1', 'judged half', 'psnr'), 'FLAIR 6/255, image': ('flair', 'image',
          'psnr'), 'lesions kept': ('lesions', 'judged half', 'kept')}  # fmt: skip
    checked = [r for r in facts['targets'] if r['target'] in of]
    assert len(checked) >= 6
    for r in checked:
        found = mean[(r['method'], *of[r['target']])]
        assert found == pytest.approx(r['value'], abs=1e-4)
        assert (r['reached'] == 'missed') == (found < r['must'])
    assert 22.1 < mean['identity', 't1', 'judged half', 'psnr'] < 22.4  # 20 log10(SNR), and bias
    assert '/tmp' not in json.dumps(facts) and '/work' not in json.dumps(facts)
