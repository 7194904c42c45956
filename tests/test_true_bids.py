"Metadata survive, what goes out is valid BIDS, and one bad scan of a folder costs one row"

import gzip
import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mri_diffusion.app.batch import run_batch
from mri_diffusion.app.experiments import run_all
from mri_diffusion.app.jobs import evaluate_scan
from mri_diffusion.core import InputError, read_json
from mri_diffusion.scans.bids import load_bids, sort_bids
from mri_diffusion.scans.nifti import Scan

BVALS = np.r_[0, 0, np.full(6, 1000.0)]
BVECS = np.r_[np.zeros((2, 3)), np.eye(3), np.abs(np.eye(3) - 1) / 2**0.5]
SIDECAR = dict(
    RepetitionTime=4.2,
    EchoTime=0.089,
    PhaseEncodingDirection='j-',
    TotalReadoutTime=0.0508,
    MagneticFieldStrength=3,
    SliceTiming=[0.1 * k for k in range(8)],
    Manufacturer='Siemens',
    ImageType=['ORIGINAL', 'PRIMARY', 'DIFFUSION', 'NONE', 'ND'],
)


def ball(shape=(16, 18, 8)):
    "A bright ellipsoid on a dark ground, 100 inside"
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing='ij'))
    inside = (at**2).sum(0) < 0.7
    return inside * (100 + 20 * np.sin(5 * at[0])).astype(np.float32)


def rician(x, sigma=5.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.hypot(x + rng.normal(0, sigma, x.shape), rng.normal(0, sigma, x.shape))


def series():
    return ball()[..., None] * np.exp(-BVALS * 7e-4).astype(np.float32)


def write(path, data, sidecar=None, table=False):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), np.diag([2.0, 2, 2, 1])), path)
    base = str(path).removesuffix('.nii.gz')
    if table:
        tables(base)
    if sidecar is not None:
        Path(base + '.json').write_text(json.dumps(sidecar))
    return path


def tables(base):
    np.savetxt(f'{base}.bval', BVALS[None], '%g')
    np.savetxt(f'{base}.bvec', BVECS.T, '%.6f')


@pytest.fixture
def study(tmp_path):
    "Two people with one series and one T1w each; table and most metadata at the root"
    bids = tmp_path / 'my study'
    for n, sub in enumerate(('01', '02')):
        dwi = bids / f'sub-{sub}/dwi/sub-{sub}_dir-AP_dwi.nii.gz'
        write(dwi, rician(series(), seed=n), dict(SliceTiming=SIDECAR['SliceTiming']))
        anat = bids / f'sub-{sub}/anat/sub-{sub}_T1w.nii.gz'
        write(anat, rician(ball(), seed=9 + n), dict(EchoTime=0.003, SkullStripped=True))
    tables(bids / 'dwi')
    rest = {k: v for k, v in SIDECAR.items() if k != 'SliceTiming'}
    (bids / 'dwi.json').write_text(json.dumps(rest | dict(EchoTime=9)))
    (bids / 'dir-AP_dwi.json').write_text(json.dumps(dict(EchoTime=SIDECAR['EchoTime'])))
    about = dict(Name='x', BIDSVersion='1.9.0')
    (bids / 'dataset_description.json').write_text(json.dumps(about))
    return bids


def blur(study, out, *words):
    return 'batch', study, out, 'participant', '--method', 'blur', '--quiet', *words


def rows(out):
    return pd.read_csv(out / 'summary.csv', dtype=str, keep_default_na=False)


def by_subject(out):
    return dict(zip(rows(out).participant, rows(out).status))


# ---- what goes out
def test_denoise_keeps_the_whole_sidecar(tmp_path, cli):
    scan = write(tmp_path / 'scan.nii.gz', rician(ball()), SIDECAR | dict(Method='EPI'))
    names = {o: tmp_path / f'{o}.nii.gz' for o in ('residual', 'noise-map')}
    words = [w for o, p in names.items() for w in (f'--{o}', p)]
    got = cli('denoise', scan, tmp_path / 'out.nii.gz', '--method', 'blur', '--sigma', 5, *words)
    assert got.code == 0, got.err
    record = read_json(tmp_path / 'out.json')
    assert {k: record[k] for k in SIDECAR} == SIDECAR
    assert record['Method'] == 'blur' and record['SourceRecord'] == dict(Method='EPI')
    assert record['SkullStripped'] is False and record['Sources'] == ['scan.nii.gz']
    for name, kind, sources in (
        ('residual', 'signed', ['scan.nii.gz', 'out.nii.gz']),
        ('noise-map', 'magnitude', ['scan.nii.gz']),
    ):
        own = read_json(tmp_path / f'{name}.json')
        assert own['EchoTime'] == 0.089 and own['Units'] == 'arbitrary'
        assert own['DataKind'] == kind and own['Sources'] == sources
        assert own['Description'] != record['Description']


def test_a_record_that_is_there_is_not_replaced(tmp_path, cli):
    scan = write(tmp_path / 'scan.nii.gz', rician(ball()))
    (tmp_path / 'res.json').write_text('{"mine": 1}')
    words = '--method', 'blur', '--residual', tmp_path / 'res.nii.gz'
    got = cli('denoise', scan, tmp_path / 'out.nii.gz', *words)
    assert got.code == 2 and 'res.json' in got.err and got.err.count('\n') == 1
    assert not (tmp_path / 'out.nii.gz').exists()
    assert read_json(tmp_path / 'res.json') == dict(mine=1)


def test_denoise_of_a_scan_in_a_bids_folder_inherits(study, tmp_path, cli):
    scan = study / 'sub-01/dwi/sub-01_dir-AP_dwi.nii.gz'
    table = '--bval', study / 'dwi.bval', '--bvec', study / 'dwi.bvec'
    out = tmp_path / 'o.nii.gz'
    assert cli('denoise', scan, out, '--method', 'blur', *table).code == 0
    record = read_json(tmp_path / 'o.json')
    assert {k: record[k] for k in SIDECAR} == SIDECAR


def test_simulate_keeps_the_sidecar(tmp_path, cli):
    scan = write(tmp_path / 'clean.nii.gz', ball(), SIDECAR)
    assert cli('simulate', scan, tmp_path / 'n.nii.gz', '--snr', 10).code == 0
    record = read_json(tmp_path / 'n.json')
    assert record['EchoTime'] == 0.089 and record['Method'] == 'simulate'


def validate(folder):
    "(code, file) of every error"
    found = subprocess.run(
        ['bids-validator-deno', str(folder), '--format', 'json'], capture_output=True, text=True
    )
    issues = json.loads(found.stdout)['issues']['issues']
    return [(i['code'], i['location']) for i in issues if i['severity'] == 'error']


def test_batch_writes_valid_bids(study, tmp_path, cli):
    out = tmp_path / 'derivatives of it'
    also = '--also', 'residual', 'noise-map'
    for suffix in ('dwi', 'T1w'):
        got = cli(*blur(study, out, '--suffix', suffix, *also))
        assert got.code == 0, got.err
    here = out / 'sub-01/dwi'
    (here / 'sub-01_dir-AP_desc-denoised_dwi.html').write_text('as --also report writes it')
    assert {p.name.removeprefix('sub-01_dir-AP_') for p in here.iterdir()} == {
        *(f'desc-{d}_dwi.{e}' for d in ('denoised', 'residual') for e in ('nii.gz', 'json')),
        *(f'desc-{d}_dwi.{e}' for d in ('denoised', 'residual') for e in ('bval', 'bvec')),
        'stat-std_desc-noise_dwimap.nii.gz',
        'stat-std_desc-noise_dwimap.json',
        'desc-denoised_dwi.html',
    }
    record = read_json(here / 'sub-01_dir-AP_desc-denoised_dwi.json')
    assert {k: record[k] for k in SIDECAR} == SIDECAR and record['SkullStripped'] is False
    assert record['Sources'] == ['bids:raw:sub-01/dwi/sub-01_dir-AP_dwi.nii.gz']
    anat = read_json(out / 'sub-01/anat/sub-01_desc-denoised_T1w.json')
    assert anat['SkullStripped'] is True and anat['EchoTime'] == 0.003
    about = read_json(out / 'dataset_description.json')
    assert about['DatasetLinks'] == dict(raw='../my%20study') and about['DatasetType']
    assert str(tmp_path) not in (out / 'dataset_description.json').read_text()
    ignored = (out / '.bidsignore').read_text().split()
    assert 'summary.csv' in ignored and '*.html' in ignored
    if shutil.which('bids-validator-deno') is None:
        pytest.skip('bids-validator-deno is not installed')
    # For a derivative the validator demands .bval and .bvec and forbids their names: its own fault
    errors = validate(out)
    assert errors and {code for code, _ in errors} == {'ALL_FILENAME_RULES_HAVE_ISSUES'}
    assert all(where.endswith(('_dwi.bval', '_dwi.bvec')) for _, where in errors)


def test_bidsignore_and_description_of_others_stay(study, tmp_path, cli):
    out = tmp_path / 'o'
    out.mkdir()
    (out / '.bidsignore').write_text('mine/\n')
    mine = dict(Name='mine', BIDSVersion='1.8.0', DatasetLinks=dict(raw='../elsewhere'))
    (out / 'dataset_description.json').write_text(json.dumps(mine))
    assert cli(*blur(study, out)).code == 0
    assert (out / '.bidsignore').read_text().startswith('mine/\n')
    about = read_json(out / 'dataset_description.json')
    assert about['Name'] == 'mine' and about['DatasetLinks']['raw'] == '../elsewhere'
    record = read_json(out / 'sub-01/dwi/sub-01_dir-AP_desc-denoised_dwi.json')
    assert record['Sources'][0].startswith('bids:raw2:sub-01/')


# ---- what is no scan
NO_SCANS = {
    'part-phase_dwi': (None, 'part-phase'),
    'part-imag_dwi': (None, 'part-imag'),
    'part-real_dwi': (None, 'part-real'),
    'rec-ADC_dwi': (None, 'derived map'),
    'desc-FA_dwi': (None, 'derived map'),
    'rec-TRACE_dwi': (None, 'derived map'),
    'desc-denoised_dwi': (None, 'output of denoising'),
    'run-3_dwi': (dict(ImageType=['ORIGINAL', 'PRIMARY', 'P', 'ND']), 'part-phase'),
    'run-4_dwi': (dict(ImageType=['DERIVED', 'DIFFUSION', 'ADC', 'ND']), 'derived map'),
    'run-5_dwi': (dict(Software='mri_diffusion', Method='mppca'), 'output of denoising'),
}


def test_what_is_no_scan_is_left_out_and_counted(study, tmp_path, cli):
    for name, (sidecar, _) in NO_SCANS.items():
        write(study / f'sub-01/dwi/sub-01_{name}.nii.gz', rician(series()), sidecar, True)
    made_here = dict(Software='mri_diffusion', Method='simulate')
    kept = write(study / 'sub-02/dwi/sub-02_run-2_dwi.nii.gz', rician(series()), made_here)
    _, others = sort_bids(study)
    found = {s.path.name: why for why, v in others.items() for s in v}
    assert found == {f'sub-01_{n}.nii.gz': why for n, (_, why) in NO_SCANS.items()}
    assert kept in [s.path for s in load_bids(study, 'dwi')]
    got = cli('batch', study, tmp_path / 'o', 'participant', '--method', 'blur')
    assert got.code == 0 and rows(tmp_path / 'o').shape[0] == 3
    said = 'note: images not taken for scans: 4 derived map, 2 output of denoising, '
    assert said + '1 part-imag, 2 part-phase, 1 part-real' in got.err


def test_field_maps_and_references_only_by_name(study):
    write(study / 'sub-01/fmap/sub-01_magnitude1.nii.gz', ball())
    write(study / 'sub-01/dwi/sub-01_dir-AP_sbref.nii.gz', ball())
    assert {s.suffix for s in load_bids(study)} == {'dwi', 'T1w'}
    assert len(list(load_bids(study, 'sbref'))) == len(list(load_bids(study, 'magnitude1'))) == 1


def test_results_are_not_denoised_again(study, tmp_path, cli):
    assert cli(*blur(study, tmp_path / 'o')).code == 0
    assert not list(load_bids(tmp_path / 'o'))
    got = cli(*blur(tmp_path / 'o', tmp_path / 'again'))
    assert got.code == 2 and '2 output of denoising' in got.err and got.err.count('\n') == 1
    assert not (tmp_path / 'again').exists()


# ---- one bad scan costs one row
def bad_table(bids):
    tables(bids / 'sub-02/dwi/sub-02_dir-AP_dwi')
    (bids / 'sub-02/dwi/sub-02_dir-AP_dwi.bval').write_text('zero one two')


def short_table(bids):
    tables(bids / 'sub-02/dwi/sub-02_dir-AP_dwi')
    (bids / 'sub-02/dwi/sub-02_dir-AP_dwi.bval').write_text('0 0 1000')


def sidecar(text):
    return lambda bids: (bids / 'sub-02/dwi/sub-02_dir-AP_dwi.json').write_text(text)


def image(content):
    def make(bids):
        path = bids / 'sub-02/dwi/sub-02_dir-AP_dwi.nii.gz'
        path.write_bytes(content(path.read_bytes()))

    return make


def folder(bids):
    path = bids / 'sub-02/dwi/sub-02_dir-AP_dwi.nii.gz'
    path.unlink()
    path.mkdir()


def link(bids):
    path = bids / 'sub-02/dwi/sub-02_dir-AP_dwi.nii.gz'
    path.unlink()
    path.symlink_to('../../.git/annex/objects/absent')


def phase(bids):
    x = np.random.default_rng(0).uniform(-np.pi, np.pi, series().shape)
    write(bids / 'sub-02/dwi/sub-02_dir-AP_dwi.nii.gz', x)


def twice(bids):
    path = bids / 'sub-02/dwi/sub-02_dir-AP_dwi.nii.gz'
    path.rename(bids / 'sub-02/dwi/sub-02_desc-a_dir-AP_dwi.nii.gz')
    shutil.copy(
        bids / 'sub-02/dwi/sub-02_desc-a_dir-AP_dwi.nii.gz',
        bids / 'sub-02/dwi/sub-02_desc-b_dir-AP_dwi.nii.gz',
    )


BAD = {
    'words in the table': (bad_table, 'not a number'),
    'a table that does not fit': (short_table, '3 b-values for 8 volumes'),
    'a sidecar that is no JSON': (sidecar('{"EchoTime": '), 'not valid JSON'),
    'a sidecar that is a list': (sidecar('[1, 2]'), 'sub-02_dir-AP_dwi.json: holds'),
    'a sidecar that is null': (sidecar('null'), 'sub-02_dir-AP_dwi.json: holds'),
    'a sidecar nested deep': (sidecar('[' * 100000 + ']' * 100000), 'nested'),
    'an empty file': (image(lambda b: b''), 'empty, 0 bytes'),
    'a file cut off': (image(lambda b: b[: len(b) // 2]), 'truncated'),
    'no image': (image(lambda b: gzip.compress(b'text' * 999)), 'not a NIfTI'),
    'a folder': (folder, 'is a folder'),
    'a link into nothing': (link, 'datalad get'),
    'a phase image': (phase, 'phase'),
    'two scans of one name': (twice, 'would have the name'),
}


@pytest.mark.parametrize('kind', BAD)
def test_one_bad_scan_costs_one_row(study, tmp_path, cli, kind):
    spoil, said = BAD[kind]
    spoil(study)
    out = tmp_path / 'o'
    got = cli(*blur(study, out))
    assert got.code == 2 and by_subject(out) == {'01': 'done', '02': 'failed'}, got
    messages = set(rows(out).message) - {''}
    assert all(said in m for m in messages) and got.err.count('\n') == len(messages), got.err
    assert 'unexpected' not in got.err and 'Traceback' not in got.err
    assert (out / 'sub-01/dwi/sub-01_dir-AP_desc-denoised_dwi.nii.gz').is_file()
    assert not list((out / 'sub-02').rglob('*.nii.gz'))
    assert [s.problem for s in load_bids(study) if s.subject == '01'] == ['', '']


def test_a_broken_sidecar_at_the_root_costs_those_it_counts_for(study, tmp_path, cli):
    (study / 'dwi.json').write_text('no')
    (study / 'dataset_description.json').write_text('neither')
    got = cli(*blur(study, tmp_path / 'o'))
    assert got.code == 2 and got.err.count('\n') == 1 and 'dwi.json: not valid JSON' in got.err
    assert by_subject(tmp_path / 'o') == {'01': 'failed', '02': 'failed'}
    assert cli(*blur(study, tmp_path / 'o', '--suffix', 'T1w')).code == 0


def test_one_target_that_cannot_be_written(study, tmp_path, cli):
    out = tmp_path / 'o'
    out.mkdir()
    (out / 'sub-02').write_text('a file in the place of a folder')
    got = cli(*blur(study, out))
    assert got.code == 2 and by_subject(out) == {'01': 'done', '02': 'failed'}
    assert 'cannot make this folder' in got.err and got.err.count('\n') == 1


def test_a_broken_record_is_made_again(study, tmp_path, cli):
    out = tmp_path / 'o'
    assert cli(*blur(study, out)).code == 0
    kept = out / '.batch/sub-02_dir-AP_desc-denoised_dwi.json'
    for text in ('', '[]', '{"status": "done"}', '[' * 100000):
        kept.write_text(text)
        assert cli(*blur(study, out)).code == 0
        assert by_subject(out) == {'01': 'skipped', '02': 'done'}


def test_names_that_do_not_say_the_subject(tmp_path, cli):
    bids, out = tmp_path / 'b', tmp_path / 'o'
    for n, sub in enumerate(('01', '02')):
        write(bids / f'sub-{sub}/anat/T1w.nii.gz', rician(ball(), seed=n))
    (bids / 'sub-02/anat/T1w.nii.gz').write_bytes(b'')
    assert cli(*blur(bids, out, '--suffix', 'T1w')).code == 2
    assert by_subject(out) == {'01': 'done', '02': 'failed'}


def test_a_shared_model_learns_from_those_that_can_be_read(study, tmp_path, cli):
    third = study / 'sub-03/dwi/sub-03_dir-AP_dwi.nii.gz'
    write(third, rician(series()))
    third.write_bytes(third.read_bytes()[:2000])
    words = '--method', 'n2n', '--preset', 'tiny', '--set', 'steps', 2, '--per-field', '--quiet'
    out = tmp_path / 'o'
    got = cli('batch', study, out, 'participant', *words)
    assert got.code == 2 and 'sub-03_dir-AP_dwi.nii.gz: truncated' in got.err, got.err
    assert by_subject(out) == {'01': 'done', '02': 'done', '03': 'failed'}


def test_a_scan_too_small_for_the_shared_network(study, tmp_path, cli):
    small = study / 'sub-02/dwi/sub-02_dir-AP_dwi.nii.gz'
    write(small, rician(series()[5:9, 7:11, 3:5]))
    words = '--method', 'n2n', '--preset', 'tiny', '--set', 'steps', 2, '--per-field', '--quiet'
    got = cli('batch', study, tmp_path / 'o', 'participant', *words)
    assert got.code == 2 and 'at least 16 x 16' in got.err and got.err.count('\n') == 1, got.err
    assert by_subject(tmp_path / 'o') == {'01': 'done', '02': 'failed'}


def test_a_process_that_dies_costs_its_scan():
    "What a system does that runs out of memory"
    said = run_all([partial(os._exit, 9), partial(str), partial(str)], 2, 'local', None, None, True)
    assert 'ended from outside' in said[0] and said[1:] == ['', '']


def test_a_shared_model_that_fails_is_said_of_each_scan(study, tmp_path):
    def train(method, scans, out):
        raise InputError(f'{method}: learns nothing today; try tomorrow')

    def denoise(path, out, **how):
        shutil.copy(path, out)

    got = run_batch(denoise, study, tmp_path / 'o', 'n2n', per_field=True, train=train)
    assert [r['status'] for r in got] == ['failed'] * 2 and 'tomorrow' in got[0]['message']
    assert by_subject(tmp_path / 'o') == {'01': 'failed', '02': 'failed'}


def test_the_table_is_written_when_it_is_interrupted(study, tmp_path):
    def denoise(path, out, **how):
        if 'sub-02' in str(path):
            raise KeyboardInterrupt
        os.makedirs(Path(out).parent, exist_ok=True)
        shutil.copy(path, out)

    with pytest.raises(Exception, match='same command again'):
        run_batch(denoise, study, tmp_path / 'o', 'blur')
    assert by_subject(tmp_path / 'o') == {'01': 'done', '02': 'begun'}


@pytest.mark.parametrize(
    'words, said',
    [
        (['--also', 'residual,noise-map'], '--also residual --also noise-map'),
        (['--participant-label', '01,02'], '--participant-label 01 02'),
        (['--cluster', 'slurm'], 'no sbatch and no srun on this machine'),
    ],
)
def test_refused_before_any_work(study, tmp_path, cli, monkeypatch, words, said):
    monkeypatch.setenv('PATH', '/nowhere')
    got = cli(*blur(study, tmp_path / 'o', *words))
    assert got.code == 2 and said in got.err and got.err.count('\n') == 1
    assert not got.out and not (tmp_path / 'o').exists()


# ---- evaluate without a mask
def test_tensor_errors_are_those_of_the_object(tmp_path):
    "A truth that is zero outside the object: without a mask the same numbers as with the object's"
    clean = series() * np.exp(-BVALS * 4e-4 * BVECS[:, 0] ** 2).astype(np.float32)
    noisy, rim = rician(clean, 4.0), rician(clean, 1.0)
    files = {n: tmp_path / f'{n}.nii.gz' for n in ('clean', 'noisy', 'denoised')}
    for name, x in zip(files, (clean, noisy, rim)):
        Scan.from_array(x, bvals=BVALS, bvecs=BVECS).save(files[name])
    inside = tmp_path / 'mask.nii.gz'
    Scan.from_array((clean.min(-1) > 0).astype(np.float32)).save(inside)
    call = dict(denoised=files['denoised'], clean=files['clean'], noisy=files['noisy'])
    free, masked = evaluate_scan(**call)['tensor'], evaluate_scan(**call, mask=inside)['tensor']
    everywhere = tmp_path / 'all.nii.gz'
    Scan.from_array(np.ones(clean.shape[:3])).save(everywhere)
    whole = evaluate_scan(**call, mask=everywhere)['tensor']
    for found in (free, whole):
        assert found['denoised']['MD'] < 0.5 * found['noisy']['MD']
        for who in ('denoised', 'noisy'):
            assert found[who]['MD'] == pytest.approx(masked[who]['MD'], rel=0.03)


# ------------------------------------------------------------------ tables and noise scans beside
def test_one_scan_inherits_its_table(study, tmp_path, cli):
    source = study / 'sub-01/dwi/sub-01_dir-AP_dwi.nii.gz'
    got = cli('denoise', source, tmp_path / 'o.nii.gz', '--method', 'nlmeans')
    assert got.code == 0 and 'gradient table inherited from dwi.bval, dwi.bvec' in got.err, got.err
    out = Scan.load(tmp_path / 'o.nii.gz')
    assert np.array_equal(out.bvals, BVALS) and np.allclose(out.bvecs, BVECS, atol=1e-5)
    assert 'dwi.bval' in ' '.join(read_json(tmp_path / 'o.json')['Notes'])
    again = cli('denoise', source, tmp_path / 'o.nii.gz', '--method', 'nlmeans')
    assert again.code == 0 and 'nothing done' in again.out
    other = ' '.join(f'{2 * b:g}' for b in BVALS)
    (study / 'sub-01/dir-AP_dwi.bval').write_text(other)  # Nearer to the scan
    near = cli('denoise', source, tmp_path / 'p.nii.gz', '--method', 'blur')
    assert near.code == 0 and Scan.load(tmp_path / 'p.nii.gz').bvals.max() == 2000
    tables(str(source).removesuffix('.nii.gz'))
    own = cli('denoise', source, tmp_path / 'q.nii.gz', '--method', 'blur')
    assert 'inherited' not in own.err and Scan.load(tmp_path / 'q.nii.gz').bvals.max() == 1000


def test_a_volume_inherits_no_table_of_a_series(study, tmp_path, cli):
    one = write(study / 'sub-01/dwi/sub-01_dir-PA_dwi.nii.gz', rician(ball(), seed=4))
    got = cli('denoise', one, tmp_path / 'o.nii.gz', '--method', 'blur')
    assert got.code == 0 and 'inherited' not in got.err and not (tmp_path / 'o.bval').exists()
    short = write(study / 'sub-01/dwi/sub-01_dir-LR_dwi.nii.gz', rician(series()[..., :5]))
    bad = cli('denoise', short, tmp_path / 'p.nii.gz', '--method', 'blur')
    assert bad.code == 2 and 'dwi.bval: 8 b-values for 5 volumes' in bad.err


def noise_alone(sigma=5.0, coils=1, n=2, seed=7):
    "Root of the sum of squares of noise, twice the level in the upper half of z"
    g = np.where(np.arange(8) < 4, 1, 2)[:, None]
    x = sigma * g * np.random.default_rng(seed).normal(size=(2 * coils, 16, 18, 8, n))
    return np.sqrt((x**2).sum(0))


def test_batch_takes_the_noise_scan_of_a_scan(study, tmp_path, cli):
    dwi = study / 'sub-01/dwi'
    g = np.where(np.arange(8) < 4, 1.0, 2.0)[:, None]
    rng = np.random.default_rng(0)
    noise = 5 * g * rng.normal(size=(2, 16, 18, 8, 8))
    write(dwi / 'sub-01_dir-AP_dwi.nii.gz', np.hypot(series() + noise[0], noise[1]))
    write(dwi / 'sub-01_dir-AP_noRF.nii.gz', noise_alone())
    write(study / 'sub-02/dwi/sub-02_dir-AP_noRF.nii.gz', noise_alone()[:9])  # Another grid
    write(study / 'sub-02/dwi/sub-02_dir-PA_noRF.nii.gz', noise_alone())  # Another name
    got = cli('batch', study, tmp_path / 'out', 'participant', '--method', 'nlmeans')
    assert got.code == 0, got.err
    table = pd.read_csv(tmp_path / 'out/summary.csv')
    assert sorted(table.scan) == [f'sub-0{k}_dir-AP_dwi.nii.gz' for k in (1, 2)]
    folders = [tmp_path / f'out/sub-0{k}/dwi' for k in (1, 2)]
    records = [read_json(next(f.glob('*denoised*.json'))) for f in folders]
    first, second = (' '.join(r['Notes']) for r in records)
    assert 'from the noise scan sub-01_dir-AP_noRF.nii.gz' in first
    assert 'not used' in second and 'the same geometry' in second
    lone = tmp_path / 'lone.nii.gz'
    words = ['--method', 'nlmeans', '--noise-scan', dwi / 'sub-01_dir-AP_noRF.nii.gz']
    assert cli('denoise', dwi / 'sub-01_dir-AP_dwi.nii.gz', lone, *words).code == 0
    assert np.array_equal(
        Scan.load(lone).data, Scan.load(next(folders[0].glob('*denoised*.nii.gz'))).data
    )
    assert cli('batch', study, tmp_path / 'out', 'participant', '--method', 'nlmeans').code == 0
    assert set(pd.read_csv(tmp_path / 'out/summary.csv').status) == {'skipped'}


def test_a_noise_scan_is_never_denoised(study, tmp_path, cli):
    write(study / 'sub-01/dwi/sub-01_dir-AP_noRF.nii.gz', noise_alone())
    write(study / 'sub-01/func/sub-01_task-rest_noRF.nii.gz', noise_alone())
    assert all(s.suffix != 'noRF' for s in load_bids(study))
    assert [s.noise is not None for s in load_bids(study, 'dwi')] == [True, False]
    assert len(sort_bids(study)[1]['noise scan']) == 2
    words = ['participant', '--method', 'blur', '--suffix', 'noRF']
    got = cli('batch', study, tmp_path / 'out', *words)
    assert got.code == 2 and '2 noise scan' in got.err


def test_coils_reach_the_noise_scan(tmp_path, cli):
    rng = np.random.default_rng(3)
    x = 5 * rng.normal(size=(16, 16, 18, 8))
    x[0] += 2 * ball()
    scan = write(tmp_path / 's.nii.gz', np.sqrt((x**2).sum(0)))
    flat = np.sqrt(((5 * rng.normal(size=(16, 16, 18, 8, 2))) ** 2).sum(0))
    alone = write(tmp_path / 'n.nii.gz', flat)
    words = ['denoise', scan, tmp_path / 'o.nii.gz', '--method', 'nlmeans', '--noise-scan', alone]
    without = cli(*words)
    assert without.code == 2 and '--coils for a sum of squares' in without.err
    got = cli(*words, '--coils', '8', '--json')
    assert got.code == 0, got.err
    assert abs(json.loads(got.out)['sigma'] / 5 - 1) < 0.03
    assert 'a sum of squares of 8 coils' in ' '.join(read_json(tmp_path / 'o.json')['Notes'])
    other = cli(*words, '--coils', '4')
    assert other.code == 2 and ('noise_coils' in other.err or 'noise alone' in other.err)
    alone_word = cli('denoise', scan, tmp_path / 'p.nii.gz', '--method', 'blur', '--coils', '8')
    assert alone_word.code == 2 and 'give that too' in alone_word.err
    assert cli(*words, '--coils', '0').code == 2
