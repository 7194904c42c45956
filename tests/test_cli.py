"The command line end to end, on files that are not in the project"

import json
import re
import subprocess
import sys
from html import unescape

import nbformat
import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.app.jobs import _with_signal
from mri_diffusion.core import read_json
from mri_diffusion.noise.sigma import estimate_sigma
from mri_diffusion.scans.nifti import Scan, auto_mask, read_nifti

CONTRACT = dict(
    methods='--json',
    simulate='--noise --snr --coils --correlation --gfactor --seed --sigma-map',
    noise='--bval --mask --map --json',
    train='--out --clean --bval --bvec --mask --preset --steps --seed --device --resume --fresh',
    denoise='--method --model --bval --bvec --mask --sigma --preset --bias-field --residual '
    '--noise-map --std --report --report-notebook --seed --device --choose --force',
    evaluate='--clean --repeats --noisy --mask --bval --bvec --json',
    run='-p --out --sweep --cluster',
    batch='--method --model --participant-label --suffix --per-field --cluster --jobs --preset '
    '--bias-field --set',
    export='--model --force --json',
    bench='--full --quick --repeats --threads --device --json --compare --seed --force',
)


def outside(code):
    return subprocess.run(
        [sys.executable, '-X', 'importtime', '-c', code], capture_output=True, text=True, check=True
    )


def test_help_loads_nothing_heavy():
    run = outside('import sys; from mri_diffusion.app.cli import main; sys.exit(main(["--help"]))')
    loaded = {
        line.split('|')[-1].strip().split('.')[0]
        for line in run.stderr.splitlines()
        if line.startswith('import time')
    }
    assert not loaded & {'numpy', 'torch', 'nibabel', 'pandas', 'scipy', 'matplotlib', 'rich'}
    assert set(CONTRACT) == {
        line.split()[0] for line in run.stdout.split('Commands:')[1].splitlines() if line.strip()
    }


@pytest.mark.parametrize('command', CONTRACT)
def test_options_of_the_contract(cli, command):
    got = cli(command, '--help')
    assert (
        got.code == 0
        and all(f'{o} ' in got.out or f'{o}\n' in got.out for o in CONTRACT[command].split())
        and '--quiet' in got.out
    )


def test_no_words_is_help_and_version(cli):
    assert 'Commands:' in cli().out and cli().code == 0
    assert cli('--version').out.startswith('mri-diffusion 0.')


@pytest.mark.usefixtures('cold')
def test_the_installed_command_says_one_line():
    run = subprocess.run(
        [
            sys.executable.replace('python3', 'python').rsplit('/', 1)[0] + '/mri-diffusion',
            'denoise',
            'nowhere.nii.gz',
            'x.nii.gz',
            '--method',
            'blur',
        ],
        capture_output=True,
        text=True,
        cwd='/',
    )
    assert (
        run.returncode == 2
        and run.stderr
        == 'mri-diffusion: error: nowhere.nii.gz: no such file; check the name and the folder\n'
        and not run.stdout
    )


def test_the_main_job_in_processes_of_its_own(made, tmp_path):
    "simulate, train, denoise, evaluate: stderr of a quiet run is empty"

    def run(*words):
        done = subprocess.run(
            [
                sys.executable,
                '-c',
                'import sys; from mri_diffusion.app.cli import main; sys.exit(main())',
                *map(str, words),
                '--quiet',
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

    clean, noisy, den = made / 'clean.nii.gz', tmp_path / 'n.nii.gz', tmp_path / 'd.nii.gz'
    assert 'SNR 10' in run('simulate', clean, noisy, '--snr', 10)
    assert 'trained' in run(
        'train',
        'diffusion',
        noisy,
        '--clean',
        clean,
        '--out',
        tmp_path / 'm',
        '--preset',
        'tiny',
        '--steps',
        2,
    )
    assert str(den) in run(
        'denoise',
        noisy,
        den,
        '--model',
        tmp_path / 'm',
        '--residual',
        tmp_path / 'r.nii.gz',
        '--noise-map',
        tmp_path / 's.nii.gz',
    )
    assert 'data range' in run('evaluate', den, '--clean', clean, '--noisy', noisy)
    assert np.allclose(
        Scan.load(noisy).data - Scan.load(den).data,
        Scan.load(tmp_path / 'r.nii.gz').data,
        atol=1e-6,
    )


def test_methods(cli):
    table = json.loads(cli('methods', '--json').out)
    assert {'unet', 'diffusion', 'nlmeans', 'identity', 'blur', 'floor'} <= {
        m['name'] for m in table
    }
    assert all(
        {'needs', 'cost', 'use', 'presets'} <= set(m)
        and set(m['presets']) == {'tiny', 'laptop', 'paper'}
        for m in table
    )
    text = cli('methods').out
    assert all(m['name'] in text for m in table)


def test_simulate_says_what_it_did(made, cli, tmp_path):
    got = cli(
        'simulate',
        made / 'clean.nii.gz',
        tmp_path / 'n.nii.gz',
        '--snr',
        12,
        '--gfactor',
        2,
        '--sigma-map',
        tmp_path / 's.nii.gz',
        '--seed',
        5,
    )
    clean, noisy, sigma, record = (
        Scan.load(made / 'clean.nii.gz'),
        Scan.load(tmp_path / 'n.nii.gz'),
        Scan.load(tmp_path / 's.nii.gz'),
        read_json(tmp_path / 'n.json'),
    )
    assert (
        got.code == 0
        and not got.err
        and (record['Seed'], record['Parameters']['noise'], record['Sources'])
        == (5, 'rician', ['clean.nii.gz'])
    )
    assert np.isclose(record['Sigma'], np.median(clean.data[auto_mask(clean.data)]) / 12, rtol=1e-5)
    assert np.isclose(sigma.data.min(), record['Sigma'], rtol=0.01) and np.isclose(
        sigma.data.max(), 2 * record['Sigma'], rtol=0.05
    )
    bright = clean.data > 6 * sigma.data
    m, s, g = (v.data[bright].astype(float) for v in (noisy, clean, sigma))
    z = (m**2 - s**2 - 2 * g**2) / (2 * g * s)  # E[M^2] = S^2 + 2 sigma^2
    assert abs(z.mean()) < 5 / np.sqrt(bright.sum()) and abs(z.std() - 1) < 0.05
    assert (
        cli(
            'simulate',
            made / 'clean.nii.gz',
            tmp_path / 'again.nii.gz',
            '--snr',
            12,
            '--gfactor',
            2,
            '--seed',
            5,
        ).code
        == 0
    )
    assert np.array_equal(Scan.load(tmp_path / 'again.nii.gz').data, noisy.data)
    assert (
        json.loads(
            cli(
                'simulate',
                made / 'clean.nii.gz',
                tmp_path / 'j.nii.gz',
                '--sigma',
                0.05,
                '--noise',
                'ncchi',
                '--coils',
                4,
                '--json',
            ).out
        )['Sigma']
        == 0.05
    )


@pytest.mark.parametrize('kind', ['gaussian', 'poisson', 'gamma'])
def test_snr_holds_at_the_median_signal(tmp_path, cli, kind):
    data = np.full((30, 30, 30), 400, np.float32)
    data[0, 0, 0] = 401
    Scan.from_array(data).save(tmp_path / 'c.nii.gz')
    Scan.from_array(data > 0).save(tmp_path / 'm.nii.gz')
    assert (
        cli(
            'simulate',
            tmp_path / 'c.nii.gz',
            tmp_path / 'n.nii.gz',
            '--snr',
            20,
            '--noise',
            kind,
            '--mask',
            tmp_path / 'm.nii.gz',
        ).code
        == 0
    )
    noisy = Scan.load(tmp_path / 'n.nii.gz').data
    assert abs(noisy.mean() - 400) < 1 and abs(noisy.std() / 20 - 1) < 0.03


def test_correlation_is_in_mm(made, cli, tmp_path):
    cli(
        'simulate',
        made / 'clean.nii.gz',
        tmp_path / 'n.nii.gz',
        '--sigma',
        0.05,
        '--noise',
        'gaussian',
        '--correlation',
        7,
    )
    noise = (
        Scan.load(tmp_path / 'n.nii.gz').data - Scan.load(made / 'clean.nii.gz').data
    )  # voxels of 7 mm: a filter of one voxel, lag-1 correlation exp(-1/4)
    assert (
        abs(noise.std() / 0.05 - 1) < 0.15
        and abs(np.mean(noise[1:] * noise[:-1]) / noise.var() - np.exp(-0.25)) < 0.08
    )


def test_noise(made, cli, tmp_path):
    got = cli(
        'noise',
        made / 'noisy.nii.gz',
        '--map',
        tmp_path / 's.nii.gz',
        '--json',
        tmp_path / 'j.json',
    )
    true, found = read_json(made / 'noisy.json')['Sigma'], read_json(tmp_path / 'j.json')
    assert got.code == 0 and all(
        w in got.out for w in ('sigma', 'estimator', 'distribution', 'correlation x', 'note')
    )
    assert abs(found['sigma'] / true - 1) < 0.1 and np.allclose(
        read_nifti(tmp_path / 's.nii.gz')[0], found['sigma']
    )
    got = cli('noise', made / 'series.nii.gz', '--json', tmp_path / 'series.json')
    assert got.code == 0, got.err


def test_training_by_simulation_takes_clean_scans_only(made, cli, tmp_path):
    got = cli(
        'train',
        'unet',
        '--clean',
        made / 'clean.nii.gz',
        made / 'clean.nii.gz',
        '--out',
        tmp_path / 'm',
        '--preset',
        'tiny',
        '--steps',
        1,
        '--set',
        'batch',
        1,
        '--json',
    )
    assert got.code == 0 and json.loads(got.out)['steps'] == 1, got.err
    config = read_json(tmp_path / 'm/config.json')
    assert config['config']['batch'] == 1 and config['learned']['own_sigma'] is None


def test_denoise_whole_series_and_keep_its_table(made, cli, tmp_path):
    out = tmp_path / 'd.nii.gz'
    got = cli(
        'denoise',
        made / 'series.nii.gz',
        out,
        '--method',
        'blur',
        '--set',
        'width',
        0.5,
        '--noise-map',
        tmp_path / 's.nii.gz',
        '--json',
    )
    noisy, den, said = Scan.load(made / 'series.nii.gz'), Scan.load(out), json.loads(got.out)
    assert (
        den.shape == noisy.shape
        and np.allclose(den.bvals, noisy.bvals)
        and np.allclose(den.bvecs, noisy.bvecs, atol=1e-6)
    )
    assert said['config'] == dict(width=0.5) and read_nifti(tmp_path / 's.nii.gz')[0].min() > 0
    record = read_json(tmp_path / 'd.json')
    assert (record['Method'], record['Parameters'], record['Sources']) == (
        'blur',
        dict(width=0.5),
        ['series.nii.gz'],
    )
    assert cli('denoise', made / 'series.nii.gz', out, '--method', 'identity', '--force').code == 0
    assert np.array_equal(Scan.load(out).data, noisy.data)


def test_mask_and_sigma_map(made, cli, tmp_path, noisy):
    noisy.with_data(0.03 + 1e-6 * noisy.data).save(tmp_path / 's.nii.gz')
    for name, sigma in (('a', 0.03), ('b', tmp_path / 's.nii.gz')):
        assert (
            cli(
                'denoise',
                made / 'noisy.nii.gz',
                tmp_path / f'{name}.nii.gz',
                '--method',
                'floor',
                '--sigma',
                sigma,
                '--mask',
                made / 'mask.nii.gz',
            ).code
            == 0
        )
    a, b = (Scan.load(tmp_path / f'{n}.nii.gz').data for n in 'ab')
    inside = Scan.load(made / 'mask.nii.gz').data > 0
    assert (
        np.allclose(a, b, atol=1e-5)
        and np.array_equal(a[~inside], noisy.data[~inside])
        and np.allclose(a[inside], np.maximum(noisy.data[inside] - 1.5 * 0.03, 0), atol=1e-6)
    )


def test_notes_go_to_stderr_and_results_to_stdout(made, cli, tmp_path):
    got = cli('denoise', made / 'noisy.nii.gz', tmp_path / 'd.nii.gz', '--method', 'floor')
    assert (
        'note: noise level estimated by' in got.err
        and got.out.count('\n') == 1
        and 'floor' in got.out
    )
    assert not cli(
        'denoise', made / 'noisy.nii.gz', tmp_path / 'e.nii.gz', '--method', 'floor', '--quiet'
    ).err


@pytest.mark.parametrize('dtype', ['int16', 'uint8'])
def test_integers_keep_their_geometry_and_become_float(cli, tmp_path, dtype):
    affine = np.array([[0, -2.5, 0.1, 30], [2, 0, 0.2, -20], [0, 0.3, 3, 7], [0, 0, 0, 1.0]])
    img = nib.Nifti1Image(
        np.random.default_rng(0).integers(0, 200, (9, 8, 7)).astype(dtype), affine
    )
    img.header.set_xyzt_units('mm', 'msec')
    img.set_sform(affine, 4), img.set_qform(affine, 1)
    img.header.set_slope_inter(0.5, 3)
    nib.save(img, tmp_path / 'i.nii.gz')
    assert (
        cli('denoise', tmp_path / 'i.nii.gz', tmp_path / 'o.nii.gz', '--method', 'identity').code
        == 0
    )
    before, after = nib.load(tmp_path / 'i.nii.gz'), nib.load(tmp_path / 'o.nii.gz')
    assert np.array_equal(before.affine, after.affine) and after.get_data_dtype() == np.float32
    for key in (
        'sform_code',
        'qform_code',
        'pixdim',
        'xyzt_units',
        'quatern_b',
        'qoffset_x',
        'srow_x',
    ):
        assert np.array_equal(before.header[key], after.header[key]), key
    assert (
        np.allclose(before.get_fdata(), after.get_fdata())
        and after.header['scl_slope'] in (1, np.nan)
        or np.isnan(after.header['scl_slope'])
    )


def test_evaluate(made, cli, tmp_path, noisy):
    clean, out = Scan.load(made / 'clean.nii.gz'), tmp_path / 'j.json'
    got = cli(
        'evaluate',
        made / 'noisy.nii.gz',
        '--clean',
        made / 'clean.nii.gz',
        '--mask',
        made / 'mask.nii.gz',
        '--json',
        out,
    )
    inside, found = Scan.load(made / 'mask.nii.gz').data > 0, read_json(out)
    mse = np.mean((noisy.data - clean.data)[inside] ** 2, dtype=float)
    assert (
        got.code == 0
        and f'data range {clean.data[inside].max():.4g}' in got.out
        and np.isclose(found['psnr_mask'], 10 * np.log10(clean.data[inside].max() ** 2 / mse))
    )
    got = cli(
        'evaluate',
        made / 'clean.nii.gz',
        '--clean',
        made / 'clean.nii.gz',
        '--noisy',
        made / 'noisy.nii.gz',
    )
    assert 'inf' in got.out and 'residual' in got.out and got.code == 0
    got = cli('evaluate', made / 'noisy.nii.gz', '--noisy', made / 'noisy.nii.gz')
    assert got.code == 0 and 'nothing but that was removed' in got.out and 'nan' not in got.out


def test_evaluate_by_repeats(made, cli, tmp_path, noisy):
    clean, rng = Scan.load(made / 'clean.nii.gz'), np.random.default_rng(0)
    clean.with_data(clean.data[..., None] + 0.1 * rng.standard_normal((*clean.shape, 6))).save(
        tmp_path / 'r.nii.gz'
    )
    den = clean.with_data(clean.data + 0.02 * rng.standard_normal(clean.shape)).save(
        tmp_path / 'd.nii.gz'
    )
    got = cli('evaluate', den, '--repeats', tmp_path / 'r.nii.gz', '--json', tmp_path / 'j.json')
    found = read_json(tmp_path / 'j.json')
    assert (
        got.code == 0
        and 'must not contain' in got.out
        and abs(found['psnr_repeats'] - 20 * np.log10(found['data_range'] / 0.02)) < 0.5
    )


def test_run(cli, tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell(
        "steps = 3 # Steps\npreset = 'tiny' # Size\nout = None # Folder",
        metadata=dict(tags=['parameters']),
    )
    body = nbformat.v4.new_code_cell(
        'from mri_diffusion.app.experiments import RunDir\nRunDir(out, dict(steps=steps, '
        "preset=preset)).result(dict(score=steps/8, rows=[dict(method='a', psnr=steps), "
        'dict(method=preset, psnr=2.)]))'
    )
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[cell, body],
            metadata=dict(
                kernelspec=dict(display_name='python3', language='python', name='python3')
            ),
        ),
        tmp_path / 'e.ipynb',
    )
    listed = cli('run', tmp_path / 'e.ipynb', '--list')
    assert (
        listed.code == 0
        and 'steps' in listed.out
        and "'tiny'" in listed.out
        and 'Size' in listed.out
    )
    got = cli(
        'run',
        tmp_path / 'e.ipynb',
        '-p',
        'steps',
        5,
        '-p',
        'preset',
        'paper',
        '--out',
        tmp_path / 'run',
        '--quiet',
    )
    assert (
        got.code == 0
        and 'score: 0.625' in got.out
        and 'method  psnr' in got.out
        and got.out.strip().endswith(f'run directory: {tmp_path}/run')
    ), got.err
    assert read_json(tmp_path / 'run/params.json') == dict(steps=5, preset='paper')
    bad = cli('run', tmp_path / 'e.ipynb', '-p', 'stepz', 5, '--out', tmp_path / 'other')
    assert (
        bad.code == 2 and 'unknown parameter stepz' in bad.err and not (tmp_path / 'other').exists()
    )
    (tmp_path / 's.json').write_text('{"steps": [1, 2]}')
    got = cli(
        'run',
        tmp_path / 'e.ipynb',
        '--sweep',
        tmp_path / 's.json',
        '--out',
        tmp_path / 'sweep',
        '--jobs',
        2,
        '--quiet',
    )
    assert got.code == 0 and 'steps=1' in got.out and 'steps=2' in got.out, got.err
    assert (
        'method  psnr' in got.out
        and max(map(len, got.out.splitlines())) < 200
        and 'steps=2' in (tmp_path / 'sweep/sweep.csv').read_text()
    )


def test_a_refused_value_does_not_keep_the_folder_of_a_run(cli, tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell(
        "preset = 'tiny' # Size\nout = None # Folder", metadata=dict(tags=['parameters'])
    )
    body = nbformat.v4.new_code_cell(
        'from mri_diffusion.core import InputError\n'
        'from mri_diffusion.app.experiments import RunDir\n'
        "run = RunDir(out, dict(preset=preset))\nrun.path('figures/first.png').write_bytes(b'')\n"
        "if preset != 'tiny':\n    raise InputError('preset: unknown')\n"
        'run.result(dict(score=1.))'
    )
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[cell, body],
            metadata=dict(
                kernelspec=dict(display_name='python3', language='python', name='python3')
            ),
        ),
        tmp_path / 'e.ipynb',
    )
    bad = cli(
        'run', tmp_path / 'e.ipynb', '-p', 'preset', 'huge', '--out', tmp_path / 'run', '--quiet'
    )
    assert bad.code == 2 and bad.err == 'mri-diffusion: error: preset: unknown\n'
    good = cli(
        'run', tmp_path / 'e.ipynb', '-p', 'preset', 'tiny', '--out', tmp_path / 'run', '--quiet'
    )
    assert good.code == 0 and read_json(tmp_path / 'run/params.json') == dict(preset='tiny'), (
        good.err
    )
    other = cli(
        'run', tmp_path / 'e.ipynb', '-p', 'preset', 'huge', '--out', tmp_path / 'run', '--quiet'
    )
    assert other.code == 2 and "preset = 'tiny', not 'huge'" in other.err


def test_what_was_assumed_is_said(made, cli, tmp_path):
    "Where sigma came from, the distribution without air, one value in a map, b-values that are missing"
    series, out = Scan.load(made / 'series.nii.gz'), tmp_path / 'p.nii.gz'
    got = cli('noise', made / 'noisy.nii.gz', '--map', tmp_path / 'm.nii.gz')
    assert got.code == 0 and 'the map holds one value' in got.out
    clean = Scan.load(made / 'clean.nii.gz')
    clean.with_data(clean.data + 9 * clean.data.max()).save(tmp_path / 'full.nii.gz')  # no air
    got = cli('noise', tmp_path / 'full.nii.gz', '--how', 'wavelet')
    assert got.code == 0 and 'assumed: no background' in got.out, got.out + got.err
    data = np.concatenate(
        [series.data[..., :1], *[series.data[..., 1:] + k for k in range(12)]], -1
    )[..., :12]  # long enough for patch2self
    b = np.r_[0.0, np.full(data.shape[-1] - 1, 1000.0)]
    Scan.from_array(data, series.affine).save(tmp_path / 'bare.nii.gz')
    Scan.from_array(data, series.affine, bvals=b).save(tmp_path / 'with.nii.gz')
    for name, said in (('with', False), ('bare', True)):
        got = cli('denoise', tmp_path / f'{name}.nii.gz', out, '--method', 'patch2self', '--force')
        assert got.code == 0 and ('no b-values were given' in got.err) == said, got.err
    cli(
        'denoise',
        made / 'noisy.nii.gz',
        tmp_path / 'd.nii.gz',
        '--method',
        'nlmeans',
        '--sigma',
        10,
        '--report',
        tmp_path / 'd.html',
    )
    assert 'Where it came from: given by the caller' in (tmp_path / 'd.html').read_text()


def test_experiments_are_listed(cli):
    from mri_diffusion.app.experiments import list_experiments

    got = cli('run')
    assert got.code == 0 and all(n in got.out for n in list_experiments())


def test_report(made, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mri-diffusion', 'denoise', 'as typed'])
    got = cli(
        'denoise',
        made / 'noisy.nii.gz',
        tmp_path / 'd.nii.gz',
        '--method',
        'blur',
        '--set',
        'width',
        1.5,
        '--sigma',
        10,
        '--report',
        tmp_path / 'd.html',
    )
    page = (tmp_path / 'd.html').read_text()
    assert (
        got.code == 0
        and '<html' in page.lower()
        and 'd.html: do not trust.' in got.out
        and 'Do not trust' in page
    ), got.out + got.err
    assert (
        '<dt>input file</dt><dd>noisy.nii.gz</dd>' in page
        and unescape(re.search('<dt>command</dt><dd>(.*?)</dd>', page).group(1))
        == "mri-diffusion denoise 'as typed'"
        and '/tmp/report-' not in page
    )


def test_a_report_notebook_of_ones_own(made, cli, tmp_path):
    from mri_diffusion.app.experiments import experiments_folder

    own = nbformat.read(experiments_folder() / 'report.ipynb', 4)
    last = next(c for c in own.cells if 'write_report(' in c.source)
    last.source = "sections['verdict'] += '<p>seen by me</p>'\n" + last.source
    nbformat.write(own, tmp_path / 'own.ipynb')
    words = ['denoise', made / 'noisy.nii.gz', tmp_path / 'd.nii.gz', '--method', 'blur', '--json']
    got = cli(*words, '--report', tmp_path / 'd.html', '--report-notebook', tmp_path / 'own.ipynb')
    assert (
        got.code == 0
        and '<p>seen by me</p>' in (tmp_path / 'd.html').read_text()
        and json.loads(got.out)['verdict'] in ('no fault found', 'look', 'do not trust')
    ), got.err  # the noise level was estimated for the page
    last.source = 'raise RuntimeError("my own mistake")'
    nbformat.write(own, tmp_path / 'broken.ipynb')
    got = cli(
        'denoise',
        made / 'noisy.nii.gz',
        tmp_path / 'b.nii.gz',
        '--method',
        'blur',
        '--report',
        tmp_path / 'b.html',
        '--report-notebook',
        tmp_path / 'broken.ipynb',
    )
    assert (
        got.code == 1
        and 'my own mistake' in got.err
        and 'b.nii.gz is written' in got.err
        and (tmp_path / 'b.nii.gz').is_file()
        and not (tmp_path / 'b.html').exists()
    ), got.err
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell('x = 1', metadata=dict(tags=['parameters']))],
            metadata=own.metadata,
        ),
        tmp_path / 'other.ipynb',
    )
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell('x = 1', metadata=dict(tags=['parameters']))]
        ),
        tmp_path / 'bare.ipynb',
    )
    (tmp_path / 'text.ipynb').write_text('no JSON')
    for more, said in (
        (['--report-notebook', tmp_path / 'own.ipynb'], '--report'),
        (
            ['--report', tmp_path / 'e.html', '--report-notebook', tmp_path / 'none.ipynb'],
            'no such notebook',
        ),
        (
            ['--report', tmp_path / 'e.html', '--report-notebook', tmp_path / 'other.ipynb'],
            'no parameter denoised',
        ),
        *(
            (
                ['--report', tmp_path / 'e.html', '--report-notebook', tmp_path / name],
                said,
            )
            for name, said in (
                ('bare.ipynb', 'no parameter denoised'),
                ('text.ipynb', 'not a notebook that can be run'),
            )
        ),
    ):
        got = cli(
            *[tmp_path / 'e.nii.gz' if w == tmp_path / 'd.nii.gz' else w for w in words], *more
        )
        assert (
            got.code == 2
            and said in got.err
            and not (tmp_path / 'e.nii.gz').exists()
            and not (tmp_path / 'e.html').exists()
        ), got.err


def test_the_gate_warns_of_correlated_noise(made, cli, tmp_path):
    for name, mm in (('white', 0), ('smooth', 7)):
        cli(
            'simulate',
            made / 'clean.nii.gz',
            tmp_path / f'{name}.nii.gz',
            '--snr',
            15,
            '--correlation',
            mm,
        )
        got = cli(
            'denoise',
            tmp_path / f'{name}.nii.gz',
            tmp_path / f'd{name}.nii.gz',
            '--method',
            'nlmeans',
        )
        assert got.code == 0 and (
            'nlmeans assumes noise independent between voxels' in got.err
        ) == (name == 'smooth') == any(
            'assumes' in n for n in read_json(tmp_path / f'd{name}.json')['Notes']
        )
    said = [
        line
        for line in cli('noise', tmp_path / 'smooth.nii.gz').out.splitlines()
        if line.startswith('warning')
    ]
    assert len(said) == 1 or len(said) == len({line.split(' assume')[1] for line in said})


def test_evaluate_a_series_by_its_tensor(made, cli, tmp_path):
    from mri_diffusion.judge.tensors import map_errors, tensor_fit

    series, clean = Scan.load(made / 'series.nii.gz'), Scan.load(made / 'series_clean.nii.gz')
    cli(
        'denoise',
        made / 'series.nii.gz',
        tmp_path / 'd.nii.gz',
        '--method',
        'blur',
        '--set',
        'width',
        0.4,
    )
    got = cli(
        'evaluate',
        tmp_path / 'd.nii.gz',
        '--clean',
        made / 'series_clean.nii.gz',
        '--noisy',
        made / 'series.nii.gz',
        '--json',
        tmp_path / 'j.json',
    )
    assert (
        got.code == 0
        and 'FA error' in got.out
        and 'MD error' in got.out
        and got.out.count('noisy 0.') == 2
    ), got.out + got.err
    mask, fit = _with_signal(clean), lambda s: tensor_fit(s.data, series.bvals, series.bvecs, mask)
    found, true = (
        read_json(tmp_path / 'j.json')['tensor'],
        map_errors(fit(series), fit(clean), mask),
    )
    assert (
        np.isclose(found['noisy']['FA'], true['FA'])
        and np.isclose(found['noisy']['MD'], true['MD'])
        and true['FA'] > 0
        and found['denoised']['FA'] != found['noisy']['FA']
    )
    same = cli('evaluate', made / 'series_clean.nii.gz', '--clean', made / 'series_clean.nii.gz')
    assert same.code == 0 and 'denoised 0.0000, +0.0000' in same.out
    (tmp_path / 'd.bvec').unlink()
    assert (
        'FA error'
        not in cli('evaluate', tmp_path / 'd.nii.gz', '--clean', made / 'series_clean.nii.gz').out
    )
    assert (
        'FA error'
        in cli(
            'evaluate',
            tmp_path / 'd.nii.gz',
            '--clean',
            made / 'series_clean.nii.gz',
            '--bvec',
            made / 'series.bvec',
        ).out
    )
    np.savetxt(tmp_path / 'one.bvec', np.tile([[1.0], [0], [0]], 8))
    got = cli(
        'evaluate',
        tmp_path / 'd.nii.gz',
        '--clean',
        made / 'series_clean.nii.gz',
        '--bvec',
        tmp_path / 'one.bvec',
    )
    assert got.code == 0 and 'no tensor maps: tensor: the gradient table fixes' in got.out


def test_a_parameter_may_be_empty():
    from mri_diffusion.app.cli import _pairs, spread_words
    from mri_diffusion.core import InputError

    assert _pairs(spread_words(['run', 'x', '-p', 'ceilings', ''])[3:], '-p') == {'ceilings': ''}
    for word in ('=3', 'steps'):
        with pytest.raises(InputError, match='takes a name and a value'):
            _pairs([word], '-p')


def test_choose_a_setting_by_the_risk(made, cli, tmp_path):
    sigma = read_json(made / 'noisy.json')['Sigma']
    words = ['denoise', made / 'noisy.nii.gz', tmp_path / 'd.nii.gz', '--sigma', sigma]
    got = cli(*words, '--method', 'blur', '--choose', 'width', '.2,.4,3')
    note = next(n for n in read_json(tmp_path / 'd.json')['Notes'] if 'chosen of' in n)
    assert (
        got.code == 0
        and note.startswith('width = 0.')
        and read_json(tmp_path / 'd.json')['Parameters']['width'] < 3
    ), got.err
    direct = cli(
        'denoise',
        made / 'noisy.nii.gz',
        tmp_path / 'e.nii.gz',
        '--method',
        'blur',
        '--set',
        'width',
        read_json(tmp_path / 'd.json')['Parameters']['width'],
    )
    assert direct.code == 0 and np.array_equal(
        read_nifti(tmp_path / 'd.nii.gz')[0], read_nifti(tmp_path / 'e.nii.gz')[0]
    )
    got = cli(*words, '--method', 'nlmeans', '--choose', 'level=.5,1', '--force')
    assert (
        got.code == 0
        and 'level = ' in got.err
        and read_json(tmp_path / 'd.json')['Sigma'] == pytest.approx(sigma)
    ), got.err
    got = cli(
        'denoise',
        made / 'noisy.nii.gz',
        tmp_path / 'f.nii.gz',
        '--method',
        'nlmeans',
        '--choose',
        'level',
        '.5,2',
        '--json',
    )
    assert got.code == 0 and read_json(tmp_path / 'f.json')['Sigma'] == pytest.approx(
        estimate_sigma(Scan.load(made / 'noisy.nii.gz').data).number
    ), got.err  # the level found, not the one told
    got = cli(
        'denoise',
        made / 'noisy.nii.gz',
        tmp_path / 'g.nii.gz',
        '--method',
        'diffdenoise',
        '--preset',
        'tiny',
        '--choose',
        'steps',
        '1,2',
    )
    assert (
        got.code == 2 and 'trained with it' in got.err and not (tmp_path / 'g_diffdenoise').exists()
    ), got.err  # said before the training
    for name, values, said in (
        ('size', '1,2', 'no such setting'),
        ('width', '1', 'two values'),
        ('width', 'a,b', 'width'),
        ('level', '.5,1', 'the same whatever it is'),
        ('level', '1,nan', 'above 0'),
    ):
        got = cli(
            *words[:2],
            tmp_path / 'none.nii.gz',
            '--sigma',
            sigma,
            '--method',
            'blur',
            '--choose',
            name,
            values,
        )
        assert got.code == 2 and said in got.err and not (tmp_path / 'none.nii.gz').exists(), (
            got.err
        )


def test_choice_knows_that_the_noise_is_correlated(cli, tmp_path):
    "Taken as white, correlated noise makes every blur look better than it is"
    from mri_diffusion.app.denoiser import Denoiser
    from mri_diffusion.app.jobs import simulate_scan
    from mri_diffusion.judge.choice import choose_setting
    from mri_diffusion.phantoms.heads import load_t1

    load_t1(downsample=4).save(tmp_path / 'clean.nii.gz')
    simulate_scan(tmp_path / 'clean.nii.gz', tmp_path / 'corr.nii.gz', snr=12, correlation=3.2)
    sigma = read_json(tmp_path / 'corr.json')['Sigma']
    got = cli(
        'denoise',
        tmp_path / 'corr.nii.gz',
        tmp_path / 'd.nii.gz',
        '--method',
        'blur',
        '--sigma',
        sigma,
        '--choose',
        'width',
        '.2,.3,.4,.5,.6,.8',
    )
    chosen = read_json(tmp_path / 'd.json')['Parameters']['width']
    scan, clean = Scan.load(tmp_path / 'corr.nii.gz'), Scan.load(tmp_path / 'clean.nii.gz').data

    def true_error(width):
        from mri_diffusion.noise.models import rician_mean

        x = Denoiser('blur', width=width).denoise(scan).denoised.data
        return ((x - rician_mean(clean, sigma))[clean > 3 * sigma] ** 2).mean() / sigma**2

    white = choose_setting(Denoiser('blur'), scan, 'width', (0.2, 0.3, 0.4, 0.5, 0.6, 0.8), sigma)[
        0
    ]
    assert got.code == 0 and true_error(chosen) < true_error(white) - 0.05 and chosen < white, (
        chosen,
        white,
    )


def test_report_of_files_with_a_sidecar_of_another_program(made, tmp_path):
    from mri_diffusion.app.report_notebook import load_result

    for p in ('noisy', 'clean'):
        nib.save(nib.load(made / f'{p}.nii.gz'), tmp_path / f'{p}.nii.gz')
    for text, method, notes in (
        ('{"Parameters": "-a 3", "Notes": "by hand", "Method": "theirs"}', 'theirs', ['by hand']),
        ('[1, 2]', None, ['clean.json']),
        ('not JSON', None, ['clean.json']),
        ('{"Parameters": [1], "Notes": [3]}', None, ['3']),
    ):
        (tmp_path / 'clean.json').write_text(text)
        result = load_result(tmp_path / 'noisy.nii.gz', tmp_path / 'clean.nii.gz', 12)
        assert (
            result.meta.get('method') == method
            and len(result.meta['notes']) == len(notes)
            and all(a in b for a, b in zip(notes, result.meta['notes']))
            and result.sigma == 12
        )
        result.report(tmp_path / 'page.html', force=True)
        assert '<html' in (tmp_path / 'page.html').read_text()


def test_eight_coils_are_said(cli, tmp_path):
    from mri_diffusion.app.jobs import simulate_scan
    from mri_diffusion.phantoms.heads import load_t1

    load_t1(downsample=5).save(tmp_path / 'clean.nii.gz')
    for n, said in ((8, True), (1, False)):
        simulate_scan(
            tmp_path / 'clean.nii.gz', tmp_path / f'{n}.nii.gz', noise='ncchi', coils=n, snr=15
        )
        got = cli(
            'denoise', tmp_path / f'{n}.nii.gz', tmp_path / f'd{n}.nii.gz', '--method', 'blur'
        )
        assert (
            got.code == 0
            and any('coils' in line for line in read_json(tmp_path / f'd{n}.json')['Notes']) is said
        ), got.err


QUICK = {
    'nothing': [],
    'methods': ['methods'],
    'a method': ['methods', 'r2r', '--json'],
    'misspelt to denoise': ['denoise', 'nofile.nii', 'out.nii'],
    'misspelt to measure': ['noise', 'nofile.nii.gz'],
    'misspelt to score': ['evaluate', 'nofile.nii', '--clean', 'none.nii'],
    'misspelt mask': ['denoise', '.', 'out.nii', '--mask', 'nofile.nii'],
    'misspelt to train': ['train', 'unet', 'nofile.nii', '--out', 'model'],
}


@pytest.mark.parametrize('words', QUICK.values(), ids=QUICK)
@pytest.mark.usefixtures('cold')
def test_a_quick_answer_imports_nothing_heavy(words, tmp_path):
    "Each of these takes a second or more to import"
    code = (
        'import sys; from mri_diffusion.app.cli import main; rc = main(sys.argv[1:]); '
        "print(*sys.modules, file=open('modules', 'w')); sys.exit(rc)"
    )
    call = [sys.executable, '-c', code, *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    heavy = {'torch', 'monai', 'dipy', 'scipy', 'pandas', 'matplotlib', 'nibabel'}
    assert not heavy & set((tmp_path / 'modules').read_text().split())
    if 'nofile' in ' '.join(words):
        assert done.returncode == 2 and 'no such file; check the name and the folder' in done.stderr
    else:
        assert done.returncode == 0 and len(done.stdout) > 500


def test_an_unknown_method_is_named(cli):
    got = cli('methods', 'unett')
    assert got.code == 2 and "method 'unett': unknown; choose from unet" in got.err
