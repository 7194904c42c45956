"The leaderboard on scans of one's own: kinds of truth, interruption, other packages, refusals"

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from mri_diffusion.app.denoiser import Result
from mri_diffusion.app.experiments import experiments_folder, run_experiment
from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.judge.leaderboard import ties
from mri_diffusion.judge.report import judge_result, scan_coils
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import Scan

matplotlib.use('agg')

PACKAGE = """import numpy as np
from mri_diffusion.methods.method import PRESET_NAMES, Method

def made(name, denoise):
    def run(data, sigma, config=None, **facts):
        return dict(denoised=denoise(data, config))

    presets = {p: dict(factor=.5) for p in PRESET_NAMES}
    return Method(name, 'In tests', 'nothing', 'nothing', run, presets=presets)

HALF = made('half', lambda x, c: x*np.float32(c['factor']))
FLAT = made('flat', lambda x, c: np.full_like(x, x.mean()))
BREAKS = made('breaks', lambda x, c: x.reshape(-1, 7, 11, 13))
"""


def board(out, **parameters):
    return run_experiment(
        'leaderboard',
        out,
        {k: str(v) for k, v in (dict(seeds=2, budget=4) | parameters).items()},
        quiet=True,
    )


def run_here(experiment, out, largest=96, **parameters):
    "An experiment in this process, without a kernel: its cells one by one; a T1 cut to `largest`"
    nb = nbformat.read(experiments_folder() / f'{experiment}.ipynb', 4)
    given = dict(parameters, out=out)
    given |= {k: str(v) for k, v in given.items() if isinstance(v, Path)}
    names = dict(__name__=experiment)
    with mock.patch.dict(os.environ, MRI_DIFFUSION_QUIET='1'), mock.patch.dict(plt.rcParams):
        for c in (c for c in nb.cells if c.cell_type == 'code'):
            exec(c.source, names)
            if 'parameters' in c.metadata.get('tags', []):
                assert not set(given) - set(names)
                names |= given
            if 'import t1_task' in c.source:
                names['t1_task'] = partial(names['t1_task'], largest=largest)
    plt.close('all')
    return read_json(Path(out) / 'result.json')


def board_here(out, **parameters):
    return run_here('leaderboard', out, **dict(seeds=2, budget=4) | parameters)


@pytest.fixture
def package(tmp_path, monkeypatch):
    "Something like an installed package that brings a method"
    info = tmp_path / 'site' / 'halves-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        '[mri_diffusion.methods]\nhalf = halves:HALF\nflat = halves:FLAT\nbreaks = halves:BREAKS\n'
    )
    (tmp_path / 'site' / 'halves.py').write_text(PACKAGE)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    return tmp_path / 'site'


def test_clean_scan_interruption_and_a_method_of_another_package(made, tmp_path, package):
    out, call = (
        tmp_path / 'run',
        dict(
            data=made / 'clean.nii.gz', truth='given', methods='identity,blur,unet,half,flat,breaks'
        ),
    )
    first = board(out, **call)
    rows = pd.read_csv(out / 'metrics.csv')
    assert rows.groupby('method').seed.nunique().to_dict() == dict(
        identity=2, blur=2, unet=2, half=2, flat=2
    )  # a constant image is judged, and
    assert len(first['refused']) == 2 and all(
        'breaks' in r and 'ValueError' in r for r in first['refused']
    )  # what breaks is listed
    table = {r['method']: r for r in first['boards']['clean.nii.gz']}
    assert (
        abs(table['identity']['leak'] - 1) < 0.02
        and table['unet']['steps'] == 4
        and table['unet']['parameters'] > 1000
        and table['unet']['train_seconds'] > 0
        and table['half']['psnr'] < table['identity']['psnr']
        and table['flat']['doubt'] == 2
    )
    assert (
        table[first['table'][0]['method']]['standing'] == 'best'
        and (out / 'leaderboard.html').read_text().count('<tr') == 6
    )
    kept = out / 'checkpoint/rows/clean.nii.gz-blur-0.json'
    lost, before = out / 'checkpoint/rows/clean.nii.gz-unet-1.json', kept.stat().st_mtime_ns
    old = read_json(lost)
    for file in (lost, out / 'result.json'):
        file.unlink()  # as if interrupted before that row was written
    again = board(out, **call)
    new = read_json(lost)
    assert (
        kept.stat().st_mtime_ns == before
        and new['psnr'] == old['psnr']
        and new['train_seconds'] >= old['train_seconds']
    )
    assert [r['psnr'] for r in again['table']] == [r['psnr'] for r in first['table']]
    (out / 'result.json').unlink()
    other = tmp_path / 'other' / 'clean.nii.gz'
    other.parent.mkdir()
    shutil.copy(made / 'noisy.nii.gz', other)
    shutil.copy(out / 'params.json', tmp_path / 'params.json')
    (out / 'params.json').write_text(
        (tmp_path / 'params.json').read_text().replace(str(made), str(other.parent))
    )
    with pytest.raises(InputError, match='not the file that this run began with'):
        board(out, **call | dict(data=other))


def test_coils_are_told_to_the_judge(made, tmp_path):
    "The truth itself, from eight coils; judged by the distribution of one coil it would be accused"
    r = board_here(
        tmp_path / 'x',
        data=made / 'clean.nii.gz',
        truth='given',
        methods='identity',
        noise='ncchi',
        n_coils=8,
    )
    assert (
        '8 coils' in (tmp_path / 'x/leaderboard.html').read_text() and r['table'][0]['doubt'] >= 1
    )
    clean = load_t1(downsample=4)
    sigma = float(np.median(clean.data[clean.mask]) / 12)
    noisy = clean.with_data(add_noise(clean.data, sigma, 'ncchi', 8, gen=generator(0)))
    result = Result(noisy.with_data(clean.data), noisy, sigma, meta={})
    told, found, wrong = (judge_result(result, clean.mask, n) for n in (8, 0, 1))
    assert told.verdict == found.verdict == 'no fault found' and wrong.verdict == 'do not trust'
    assert any('8 coils' in n for n in found.notes) and any('one channel' in n for n in wrong.notes)
    assert (
        'judged as 8' in scan_coils(noisy, sigma, clean.mask)[1]
        and scan_coils(noisy, 3 * sigma, clean.mask)[0] == 1
    )


def test_repeats_series_and_a_scan_without_truth(made, tmp_path, package):
    one = Scan.load(made / 'clean.nii.gz')
    noise = np.random.default_rng(0).normal(0, 0.05 * one.data.max(), (2, *one.shape, 4))
    one.with_data(np.hypot(one.data[..., None] + noise[0], noise[1]).astype(np.float32)).save(
        tmp_path / 'repeats.nii.gz'
    )
    r = {
        b['method']: b
        for b in board_here(
            tmp_path / 'a',
            data=tmp_path / 'repeats.nii.gz',
            truth='repeats',
            methods='identity,blur',
        )['boards']['repeats.nii.gz']
    }
    assert (
        r['identity']['leaky'] > r['identity']['psnr'] > r['identity']['left_out'] - 1e-9
        and r['blur']['left_out'] < r['blur']['psnr']
    )
    m = {
        b['method']: b
        for b in board(
            tmp_path / 'b',
            data=made / 'series_clean.nii.gz',
            truth='made',
            methods='identity,mppca,flat',
            crop='1:13,1:15,1:11',
        )['boards']['series_clean.nii.gz']
    }
    assert (
        m['mppca']['psnr'] > m['identity']['psnr']
        and m['mppca']['fa_error'] < m['identity']['fa_error']
        and {'bias', 'leak', 'md_error'} <= set(m['mppca'])
    )
    assert (
        m['flat']['doubt'] == 2 and m['flat']['rank'] == 3
    )  # one volume for all, constant: judged like the others
    with pytest.raises(InputError, match='4 repeats for 5 seeds'):
        board_here(
            tmp_path / 'd',
            data=tmp_path / 'repeats.nii.gz',
            truth='repeats',
            methods='identity',
            seeds=5,
        )
    n = board_here(
        tmp_path / 'c', data=made / 'noisy.nii.gz', truth='none', methods='identity,blur'
    )
    page = (tmp_path / 'c/leaderboard.html').read_text()
    assert (
        page.count('<tr') == 3
        and 'SNR 10' not in page
        and 'no truth' in page
        and {r['method'] for r in n['table']} == {'identity', 'blur'}
    )
    assert n['boards'] == {} and {'method', 'seed', 'train_seconds'} <= set(
        pd.read_csv(tmp_path / 'c/metrics.csv')
    )


@pytest.mark.parametrize(
    'parameters, said',
    [
        (dict(data='noisy.nii.gz'), 'say what it is'),
        (dict(data='noisy.nii.gz', truth='given', methods='ddm2'), 'cannot take this scan'),
        (dict(data='noisy.nii.gz', truth='repeats'), 'at least 3 repeats'),
        (dict(data='no.nii.gz', truth='given'), 'no such file'),
        (dict(data='t1', crop='0:4,0:4,0:4'), 'scan of your own'),
        (
            dict(data='t1', methods='blur,diffdenoise', budget=2),
            '2 optimizer steps for 3 trainings',
        ),
    ],
)
def test_refused(made, tmp_path, parameters, said):
    if '.nii' in parameters['data']:
        parameters = parameters | dict(data=made / parameters['data'])
    with pytest.raises(InputError, match=said):
        board_here(tmp_path / 'x', **parameters)
    assert not (tmp_path / 'x/result.json').exists()


def test_a_summary_needs_its_columns():
    table = pd.DataFrame([dict(method='a', seed=0, psnr=np.nan)])
    for column, said in (('ssim', 'method, seed and ssim'), ('psnr', 'psnr has no value')):
        with pytest.raises(InputError, match=said):
            ties(table, column)


def test_another_package_is_listed_and_a_broken_one_named(package):
    def listed():
        return subprocess.run(
            [
                sys.executable,
                '-c',
                'import sys; from mri_diffusion.app.cli import main; sys.exit(main(["methods"]))',
            ],
            capture_output=True,
            text=True,
        )

    p = listed()
    assert p.returncode == 0 and {'half', 'flat', 'breaks'} <= {
        line.split()[0] for line in p.stdout.splitlines() if line.strip()
    }
    for text, said in (
        ('import nothing_like_that', 'nothing_like_that'),
        ('HALF = FLAT = BREAKS = 3', 'is no Method'),
        (PACKAGE.replace("made('half'", "made('blur'"), 'taken'),
    ):
        (package / 'halves.py').write_text(text)
        p = listed()
        assert (
            p.returncode == 2
            and 'halves' in p.stderr
            and said in p.stderr
            and len(p.stderr.strip().splitlines()) == 1
        ), p.stderr
