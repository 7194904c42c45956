"The table of speed: what its summary says, who is absent, and that it goes on; never how fast"

import fcntl
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mri_diffusion.core import InputError, generator, read_json
from mri_diffusion.methods.classical import mppca
from mri_diffusion.noise.models import add_rician_noise
from mri_diffusion.phantoms.heads import make_gradients, simulate_dmri

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tools'))
import speed  # noqa: E402

TINY = '--crop=', '--rounds=1', '--methods=wiener;mppca (DIPY);dwidenoise (MRtrix);r2r, old build'


@pytest.fixture(scope='module')
def series():
    return simulate_dmri(*make_gradients({1000: 6}, 2), shape=(14, 16, 12), voxel_size=None)[0]


@pytest.fixture
def folder(series, tmp_path):
    series.save(tmp_path / 'dwi.nii.gz')
    return tmp_path


@pytest.fixture
def without_mrtrix(monkeypatch, tmp_path):
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    return tmp_path / 'bin'


def rows_of(seconds, **more):
    "Made-up rows: method -> seconds, one a round"
    rest = dict(memory_mib=100.0, psnr=30.0, bias=0.0, fa_error=0.05) | more
    made = [
        dict(method=m, round=i, seconds=s, core_seconds=s / 2, whole_seconds=s + 3) | rest
        for m, times in seconds.items()
        for i, s in enumerate(times)
    ]
    return pd.DataFrame(made)


def test_the_summary_holds_medians_ranges_and_ratios_within_a_round():
    # the machine is three times as slow in the last round: no ratio changes
    mppca, ours = [10.0, 12.0, 30.0], [5.0, 6.0, 15.0]
    table = speed.summarise(rows_of({speed.DIPY: mppca, 'unet_pca': ours})).set_index('method')
    row = table.loc['unet_pca']
    assert (row.seconds, row.seconds_low, row.seconds_high) == (6.0, 5.0, 15.0)
    assert (row.core, row.whole, row.whole_high, row.rounds) == (3.0, 9.0, 18.0, 3)
    assert (row.of_mppca, row.of_mppca_low, row.of_mppca_high) == (0.5, 0.5, 0.5)
    assert row.core_of_mppca == 0.5 and table.of_mppca[speed.DIPY] == 1
    assert list(table.index) == ['unet_pca', speed.DIPY] and 'of_old' not in table


def test_the_ratio_is_the_median_of_the_ratios_and_only_of_rounds_that_both_ran():
    rows = rows_of({speed.OLD: [100.0, 400.0, 200.0, 1.0], 'r2r': [50.0, 100.0, 20.0]})
    row = speed.summarise(rows).set_index('method').loc['r2r']
    assert (row.of_old, row.of_old_low, row.of_old_high) == (0.25, 0.1, 0.5)
    assert row.rounds == 3


def test_scores_are_means_and_memory_is_the_largest():
    rows = rows_of({'wiener': [1.0, 1.0]}).assign(psnr=[30.0, 32.0], memory_mib=[90.0, 110.0])
    row = speed.summarise(rows).iloc[0]
    assert (row.psnr, row.memory_mib) == (31.0, 110.0)


def test_bias_is_removed_as_for_mppca(series):
    from dipy.denoise.localpca import mppca as dipys

    noisy = add_rician_noise(series.data, 60.0, generator(0)).astype(np.float32)
    how = dict(mask=series.mask, patch_radius=2, return_sigma=True, suppress_warning=True)
    found = speed.without_bias(*dipys(noisy, **how), noisy, series.mask)
    ours = mppca(noisy, mask=series.mask, patch_radius=2, remove_bias=True)
    assert np.allclose(found, ours, rtol=1e-5) and not np.allclose(found, noisy)


def test_it_runs_names_who_is_absent_and_goes_on(folder, without_mrtrix, capsys):
    words = str(folder), f'--out={folder / "speed.csv"}', *TINY
    speed.main(*words)
    said = capsys.readouterr().out.splitlines()
    absent = [x for x in said if 'absent' in x]
    assert absent == [
        'r2r, old build: absent: no checkout given (--old)',
        'dwidenoise (MRtrix): absent: dwidenoise is not on the PATH '
        '(Debian, Ubuntu: apt install mrtrix3)',
    ]
    one = pd.read_csv(folder / 'speed.csv')
    assert set(one.method) == {'wiener', speed.DIPY} and (one['round'] == 0).all()
    assert (one.seconds < one.whole_seconds).all() and (one.psnr > 15).all()
    assert one.memory_mib.between(20, 5000).all() and (one.core_seconds > 0).all()
    # the run of wiener is lost: only that is made again
    one[one.method != 'wiener'].to_csv(folder / 'speed.csv', index=False)
    speed.main(*words)
    two = pd.read_csv(folder / 'speed.csv').set_index('method')
    assert two.seconds[speed.DIPY] == one.set_index('method').seconds[speed.DIPY]
    assert two.psnr['wiener'] == one.set_index('method').psnr['wiener'] and len(two) == 2
    record = read_json(folder / 'speed.json')
    assert {r['method'] for r in record['summary']} == set(two.index)
    assert str(folder) not in (folder / 'speed.json').read_text()
    with pytest.raises(InputError, match='other settings'):
        speed.main(*words, '--snr=20')


@pytest.mark.skipif(os.name == 'nt', reason='a script as a command')
def test_a_command_on_the_path_is_run_and_one_that_fails_says_why(folder, without_mrtrix):
    command = without_mrtrix / 'dwidenoise'
    copies = 'import shutil, sys\nif len(sys.argv) > 2:\n    shutil.copy(*sys.argv[-2:])\n'
    command.write_text(f'#!{sys.executable}\n{copies}')
    command.chmod(0o755)
    words = str(folder), '--crop=', '--rounds=1', '--methods=dwidenoise (MRtrix)'
    speed.main(*words, f'--out={folder / "good.csv"}')
    row = pd.read_csv(folder / 'good.csv').iloc[0]
    assert row.seconds == row.whole_seconds
    command.write_text(f'#!{sys.executable}\nimport sys; sys.exit("no such noise")\n')
    with pytest.raises(InputError, match='dwidenoise .*code 1: no such noise'):
        speed.main(*words, f'--out={folder / "bad.csv"}')


def test_what_cannot_be_run_is_one_line(tmp_path):
    with pytest.raises(InputError, match="method 'magic': unknown; choose from unet_pca"):
        speed.plan(speed.asked(['.', '--methods=magic']))
    with pytest.raises(InputError, match="few 'r2r': give NAME=ROUNDS"):
        speed.plan(speed.asked(['.', '--few=r2r']))
    absent = speed.contenders(old=str(tmp_path))[1]
    assert 'run make setup there' in absent[speed.OLD]


def test_a_lock_is_held_while_a_run_is_timed(tmp_path):
    lock = tmp_path / 'quiet'
    with speed.held(lock), open(lock) as f, pytest.raises(BlockingIOError):
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(lock) as f:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
