"Files of other programs, judged: DIPY's own workflow writes one, report and leaderboard read it"

import logging

import numpy as np
import pandas as pd
import pytest
from test_leaderboard import run_here

from mri_diffusion.app.experiments import run_experiment
from mri_diffusion.core import InputError, read_json
from mri_diffusion.judge.criteria import criteria, judge_files, others_of
from mri_diffusion.methods.classical import blur
from mri_diffusion.noise.chain import Scanner, read_chain, scan_chain, write_chain
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri
from mri_diffusion.scans.nifti import Scan


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder of two runs, and what DIPY's MP-PCA and a blur made of them"
    from dipy.workflows.denoise import MPPCAFlow

    at = tmp_path_factory.mktemp('others')
    head, _ = simulate_dmri(*make_gradients({1500: 12}, 2), (24, 24, 5), voxel_size=(8, 8, 10))
    write_chain(at / 'bids', [scan_chain(head, Scanner(4), 15, run=k) for k in range(2)])
    logging.disable(logging.CRITICAL)
    for k, noisy in enumerate(read_chain(at / 'bids').noisy, 1):
        MPPCAFlow().run(str(noisy), out_dir=str(at), out_denoised=f'mppca{k}.nii.gz')
        scan = Scan.load(noisy)
        Scan.from_array(blur(scan.data, width=2.0), scan.affine).save(at / f'blur{k}.nii.gz')
    logging.disable(logging.NOTSET)
    return at


def test_a_file_of_dipy_is_judged(place):
    found = read_chain(place / 'bids')
    noisy = Scan.load(found.noisy[0])
    files = others_of(
        f'DIPY={place}/mppca1.nii.gz+{place}/mppca2.nii.gz, blur = {place}/blur1.nii.gz'
    )
    assert {k: len(v) for k, v in files.items()} == {'DIPY': 2, 'blur': 1}
    t = judge_files(noisy, files, found.sigma, found.clean.mask, found.clean.data)
    assert list(t.index) == ['ideal', 'noisy', 'DIPY', 'blur']
    assert t.noise_left['DIPY'] < 0.8 < t.noise_left['noisy'] and t.removed['DIPY'] < 1
    assert t.detail['blur'] < 0.3 < 0.7 < t.detail['DIPY']
    assert t.angle['DIPY'] < t.angle['noisy'] and t.fa['blur'] > max(t.fa[['DIPY', 'noisy']])
    assert 0 < t.repeat['DIPY'] < 1 and np.isnan(t.repeat['blur'])
    assert t.anatomy['blur'] > 1.3 > t.anatomy['DIPY']
    alone = judge_files(noisy, files, None, found.clean.mask)
    assert alone.detail['blur'] < alone.detail['DIPY'] and 'noise_left' not in alone


def test_what_cannot_be_judged_is_one_line(place, tmp_path):
    noisy = Scan.load(read_chain(place / 'bids').noisy[0])
    good = f'{place}/mppca1.nii.gz'
    for text, said in (
        ('dwidenoise', 'give name=file'),
        ('=x.nii.gz', 'give name=file'),
        ('a=', 'give name=file'),
        (f'a={tmp_path}/none.nii.gz', 'no such file'),
        (f'a={good},a={good}', 'is taken'),
        (f'ideal={good}', 'is taken'),
    ):
        with pytest.raises(InputError, match=said) as e:
            others_of(text)
        assert '\n' not in str(e.value)
    assert others_of('') == {} and others_of('  ') == {}
    with pytest.raises(InputError, match='a has 1 file for 2 scans'):
        others_of(f'a={good}', 2)
    odd = tmp_path / 'a+b, c.nii.gz'
    odd.write_bytes((place / 'mppca1.nii.gz').read_bytes())
    assert others_of(f'a={odd}')['a'] == [odd]  # A name with + and a comma is a name
    moved = noisy.affine.copy()
    moved[:3, 3] += 3
    cases = {
        'part': Scan.from_array(noisy.data[..., :5], noisy.affine),
        'moved': Scan.from_array(noisy.data, moved),
    }
    for name, scan in cases.items():
        scan.save(tmp_path / f'{name}.nii.gz')
        with pytest.raises(InputError, match='same grid|resample') as e:
            judge_files(noisy, others_of(f'x={tmp_path}/{name}.nii.gz'), 10.0)
        assert '\n' not in str(e.value)
    with pytest.raises(InputError, match='sigma'):
        criteria(noisy, noisy, np.ones((3, 3)), noisy.foreground())


def test_report_and_leaderboard_take_files(place, tmp_path):
    bids, mppca = place / 'bids', f'{place}/mppca1.nii.gz+{place}/mppca2.nii.gz'
    truth = bids / 'derivatives/truth/sub-01/dwi'
    settings = dict(
        noisy=bids / 'sub-01/dwi/sub-01_run-1_part-mag_dwi.nii.gz',
        others=f'DIPY={mppca},blur={place}/blur1.nii.gz',
        clean=truth / 'sub-01_part-mag_desc-chain_dwi.nii.gz',
        mask=truth / 'sub-01_desc-brain_mask.nii.gz',
        sigma=truth / 'sub-01_stat-std_desc-noise_dwimap.nii.gz',
    )
    said = run_experiment('report', tmp_path / 'r', {k: str(v) for k, v in settings.items()}, True)
    assert [r['program'] for r in said['criteria']] == ['ideal', 'noisy', 'DIPY', 'blur']
    page = (tmp_path / 'r/report.html').read_text()
    assert page.count('Programs side by side') == 1 and '<th scope="row">DIPY</th>' in page
    board = dict(truth='chain', data=bids, seeds=2, methods='identity', others=f'DIPY={mppca}')
    run_here('leaderboard', tmp_path / 'b', **board)
    rows = pd.read_csv(tmp_path / 'b/metrics.csv').set_index(['method', 'seed'])
    assert set(rows.index) == {(m, s) for m in ('identity', 'DIPY') for s in (0, 1)}
    assert (rows.psnr['DIPY'] > rows.psnr['identity'] + 1).all()
    for name in ('noise_left', 'detail', 'angle', 'fa', 'anatomy', 'repeat'):
        own = rows[f'c_{name}']['DIPY'][0]
        assert abs(own - said['criteria'][2][name]) < 0.02 * max(own, 1), name
    listed = read_json(tmp_path / 'b/result.json')['criteria']['bids']
    assert {r['method'] for r in listed} == {'identity', 'DIPY'}
