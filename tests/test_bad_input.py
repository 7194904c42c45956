"Every bad input: one line on stderr, exit code 2, nothing on stdout, nothing under a final name"

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest

from mri_diffusion.scans.nifti import Scan


def image(path, data, affine=None):
    nib.save(
        nib.Nifti1Image(np.asarray(data, np.float32), np.eye(4) if affine is None else affine), path
    )
    return path


def noisy_data(files):
    return Scan.load(files / 'noisy.nii.gz').data.copy()


def with_value(files, value):
    data = noisy_data(files)
    data[3, 4, 5] = value
    return image(files / 'bad.nii.gz', data)


def truncated(files):
    whole = (files / 'noisy.nii.gz').read_bytes()
    (files / 'bad.nii.gz').write_bytes(whole[: len(whole) // 2])
    return files / 'bad.nii.gz'


def truncated_plain(files):
    whole = gzip.decompress((files / 'noisy.nii.gz').read_bytes())
    (files / 'bad.nii').write_bytes(whole[: len(whole) // 2])
    return files / 'bad.nii'


def text(path, said):
    path.write_text(said)
    return path


def unreadable(files):
    path = files / 'bad.nii.gz'
    if os.geteuid():
        (files / 'noisy.nii.gz').rename(path).chmod(0)
    else:
        path.mkdir()
    return path


INPUTS = dict(
    missing=(lambda f: f / 'nowhere.nii.gz', 'no such file'),
    unreadable=(unreadable, 'folder' if not os.geteuid() else 'permission'),
    truncated=(truncated, 'truncated'),
    truncated_plain=(truncated_plain, 'truncated'),
    not_nifti=(lambda f: text(f / 'bad.nii', 'hello'), 'not a NIfTI'),
    not_gzip=(lambda f: text(f / 'bad.nii.gz', 'hello'), 'gzip'),
    empty=(lambda f: text(f / 'bad.nii.gz', ''), '0 bytes'),
    compressed=(lambda f: (f / 'noisy.nii.gz').rename(f / 'bad.nii'), 'name it .nii.gz'),
    other_name=(lambda f: text(f / 'bad.png', 'hello'), '.nii'),
    two_axes=(lambda f: image(f / 'bad.nii.gz', np.random.rand(1, 1)), 'constant'),
    five_axes=(lambda f: image(f / 'bad.nii.gz', np.random.rand(5, 5, 5, 2, 3)), '5-D'),
    nan=(lambda f: with_value(f, np.nan), '1 NaN'),
    inf=(lambda f: with_value(f, np.inf), '1 Inf'),
    constant=(lambda f: image(f / 'bad.nii.gz', np.full((8, 8, 8), 3)), 'constant'),
)

COMMANDS = dict(
    denoise=lambda bad, out: ['denoise', bad, out, '--method', 'blur'],
    noise=lambda bad, out: ['noise', bad, '--map', out],
    simulate=lambda bad, out: ['simulate', bad, out, '--snr', 10],
    evaluate=lambda bad, out: ['evaluate', bad, '--noisy', bad, '--json', out],
    train=lambda bad, out: ['train', 'unet', bad, '--clean', bad, '--out', out, '--preset', 'tiny'],
)


def refused(cli, words, out, said):
    before = sorted(p for p in out.parent.rglob('*'))
    got = cli(*words)
    assert got.code == 2, got
    assert (
        got.err.startswith('mri-diffusion: error: ') and got.err.count('\n') == 1 and not got.out
    ), got
    assert said in got.err and 'Traceback' not in got.err, got.err
    assert sorted(p for p in out.parent.rglob('*')) == before and not list(
        out.parent.glob('.tmp-*')
    )


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('kind', INPUTS)
def test_bad_scan(files, cli, kind, command):
    make, said = INPUTS[kind]
    bad, out = make(files), files / 'out.nii.gz'
    refused(cli, COMMANDS[command](bad, out), out, said)


def shifted(files, name, by=5.0):
    scan = Scan.load(files / name)
    affine = scan.affine.copy()
    affine[0, 3] += by
    return image(files / 'bad.nii.gz', scan.data, affine)


PARTNERS = dict(
    mask_empty=(
        lambda f: image(f / 'bad.nii.gz', 0 * noisy_data(f), Scan.load(f / 'noisy.nii.gz').affine),
        'empty mask',
        '--mask',
    ),
    mask_shape=(lambda f: image(f / 'bad.nii.gz', np.ones((5, 5, 5))), 'shape', '--mask'),
    mask_affine=(lambda f: shifted(f, 'mask.nii.gz'), 'affine', '--mask'),
    mask_missing=(lambda f: f / 'nowhere.nii.gz', 'no such file', '--mask'),
    sigma_shape=(lambda f: image(f / 'bad.nii.gz', np.ones((5, 5, 5))), 'shape', '--sigma'),
    sigma_affine=(lambda f: shifted(f, 'mask.nii.gz'), 'affine', '--sigma'),
    sigma_negative=(lambda f: -1, 'sigma', '--sigma'),
    sigma_nan=(lambda f: 'nan', 'sigma', '--sigma'),
    sigma_word=(lambda f: 'much', 'no such file', '--sigma'),
)


@pytest.mark.parametrize('kind', PARTNERS)
def test_bad_partner_of_a_scan(files, cli, kind):
    make, said, option = PARTNERS[kind]
    out = files / 'out.nii.gz'
    refused(
        cli,
        ['denoise', files / 'noisy.nii.gz', out, '--method', 'nlmeans', option, make(files)],
        out,
        said,
    )


@pytest.mark.parametrize(
    'make, said',
    [
        (lambda f: image(f / 'bad.nii.gz', np.random.rand(5, 5, 5)), 'shape'),
        (lambda f: shifted(f, 'clean.nii.gz'), 'affine'),
        (lambda f: f / 'nowhere.nii.gz', 'no such file'),
    ],
    ids=['shape', 'affine', 'missing'],
)
def test_bad_clean(files, cli, make, said):
    clean, noisy = make(files), files / 'noisy.nii.gz'
    refused(
        cli,
        ['train', 'unet', noisy, '--clean', clean, '--out', files / 'm', '--preset', 'tiny'],
        files / 'm',
        said,
    )
    refused(
        cli,
        ['evaluate', noisy, '--clean', clean, '--json', files / 'j.json'],
        files / 'j.json',
        said,
    )


TABLES = dict(
    bval_length=('--bval', '0 0 1000', '3 b-values for 8'),
    bval_words=('--bval', '0 0 a b c d e f', 'not a number'),
    bval_negative=('--bval', '0 0 -5 1000 1000 1000 1000 1000', 'negative'),
    bvec_length=('--bvec', '1 0 0\n0 1 0\n0 0 1\n1 0 0\n', '4 directions for 8'),
    bvec_missing=('--bvec', None, 'no such file'),
)


@pytest.mark.parametrize('kind', TABLES)
def test_bad_gradient_table(files, cli, kind):
    option, table, said = TABLES[kind]
    path = files / 'bad.txt' if table is None else text(files / 'bad.txt', table)
    for words in (
        ['denoise', files / 'series.nii.gz', files / 'out.nii.gz', '--method', 'patch2self'],
        ['simulate', files / 'series_clean.nii.gz', files / 'out.nii.gz', '--snr', 9],
    ):
        refused(cli, [*words, option, path], files / 'out.nii.gz', said)


def tampered(files):
    weights = bytearray((files / 'model/model.safetensors').read_bytes())
    weights[-1] ^= 1
    (files / 'model/model.safetensors').write_bytes(weights)


def edited(files, **changes):
    path = files / 'model/config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


MODELS = dict(
    missing=(lambda f: (f / 'model').rename(f / 'elsewhere'), [], 'no such model folder'),
    other_method=(lambda f: None, ['--method', 'diffusion'], 'holds a model of unet'),
    tampered=(tampered, [], 'checksum'),
    unfinished=(lambda f: (f / 'model/config.json').unlink(), [], 'not a finished model'),
    broken=(lambda f: (f / 'model/config.json').write_text('{'), [], 'not valid JSON'),
    unknown_method=(lambda f: edited(f, method='unett'), [], 'unett'),
    other_format=(lambda f: edited(f, format=99), [], 'format 99'),
    other_preset=(lambda f: None, ['--preset', 'paper'], 'trained with the preset tiny'),
)


@pytest.mark.parametrize('kind', MODELS)
def test_bad_model(files, cli, kind):
    spoil, more, said = MODELS[kind]
    spoil(files)
    refused(
        cli,
        [
            'denoise',
            files / 'noisy.nii.gz',
            files / 'out.nii.gz',
            '--model',
            files / 'model',
            *more,
        ],
        files / 'out.nii.gz',
        said,
    )


CALLS = dict(
    method=('denoise noisy.nii.gz out.nii.gz --method nlmean', "'nlmean': unknown"),
    no_model=('denoise noisy.nii.gz out.nii.gz --method nafnet', '--model'),
    model_not_wanted=('denoise noisy.nii.gz out.nii.gz --method blur --model model', 'no --model'),
    preset=('denoise noisy.nii.gz out.nii.gz --method blur --preset huge', "'huge': unknown"),
    train_preset=(
        'train unet noisy.nii.gz --clean clean.nii.gz --out out --preset huge',
        "'huge': unknown",
    ),
    setting=(
        'denoise noisy.nii.gz out.nii.gz --method blur --set radius 3',
        'unknown setting radius',
    ),
    train_setting=(
        'train unet noisy.nii.gz --clean clean.nii.gz --out out --set stepz 3',
        'unknown setting stepz',
    ),
    setting_value=('denoise noisy.nii.gz out.nii.gz --method blur --set width wide', 'width'),
    setting_alone=(
        'denoise noisy.nii.gz out.nii.gz --method blur --set width',
        'a name and a value',
    ),
    no_clean=('train unet noisy.nii.gz --out out', '--clean'),
    nothing_to_learn_from=('train unet --out out', 'give scans'),
    unequal=('train unet noisy.nii.gz --clean clean.nii.gz clean.nii.gz --out out', 'in pairs'),
    learns_nothing=('train nlmeans noisy.nii.gz --out out', 'learns nothing'),
    no_steps=('train unet noisy.nii.gz --clean clean.nii.gz --out out --steps 0', 'at least 1'),
    device=('denoise noisy.nii.gz out.nii.gz --model model --device tpu', "'tpu': unknown"),
    no_level=('simulate clean.nii.gz out.nii.gz', '--snr'),
    two_levels=('simulate clean.nii.gz out.nii.gz --snr 3 --sigma 4', '--snr'),
    zero_snr=('simulate clean.nii.gz out.nii.gz --snr 0', 'above 0'),
    noise_kind=('simulate clean.nii.gz out.nii.gz --snr 9 --noise pink', 'pink'),
    coils=('simulate clean.nii.gz out.nii.gz --snr 9 --coils 4', 'ncchi'),
    gfactor=('simulate clean.nii.gz out.nii.gz --snr 9 --gfactor 0.5', 'g-factor'),
    bias_field=(
        'denoise noisy.nii.gz out.nii.gz --method blur --bias-field away',
        'keep, correct, restore',
    ),
    paired_table=(
        'train unet noisy.nii.gz --clean clean.nii.gz --out out --bval series.bval',
        'learns from pairs',
    ),
    paired_sigma=(
        'train unet noisy.nii.gz --clean clean.nii.gz --out out --sigma 3',
        'noise level',
    ),
    batch_level=('batch . out group --method blur', 'participant is expected'),
    batch_folder=('batch model out participant --method blur', 'BIDS'),
    estimator=('noise noisy.nii.gz --how guess --map out.nii.gz', 'guess'),
    nothing_to_compare=('evaluate noisy.nii.gz --json out.json', 'nothing to compare'),
    clean_and_repeats=(
        'evaluate noisy.nii.gz --clean clean.nii.gz --repeats series.nii.gz',
        'one of them',
    ),
    repeats_shape=('evaluate noisy.nii.gz --repeats series.nii.gz', 'shape'),
    no_std=('denoise noisy.nii.gz out.nii.gz --method blur --std u.nii.gz', 'no uncertainty'),
    ending=('denoise noisy.nii.gz out.img --method blur', '.nii'),
    residual_ending=('denoise noisy.nii.gz out.nii.gz --method blur --residual r.png', '.nii'),
    report_ending=('denoise noisy.nii.gz out.nii.gz --method blur --report r.pdf', '.html'),
    same_name_twice=(
        'denoise noisy.nii.gz out.nii.gz --method blur --residual out.nii.gz',
        'two outputs',
    ),
    over_the_input=(
        'denoise noisy.nii.gz noisy.nii.gz --method blur --force',
        'belongs to the input',
    ),
    over_the_table=(
        'denoise series.nii.gz series.nii --method blur --force',
        'belongs to the input',
    ),
    output_exists=('denoise noisy.nii.gz clean.nii.gz --method blur', 'exists; use --force'),
    residual_exists=(
        'denoise noisy.nii.gz out.nii.gz --method blur --residual clean.nii.gz',
        'exists; use --force',
    ),
    simulate_exists=('simulate clean.nii.gz noisy.nii.gz --snr 9', 'exists; use --force'),
    map_exists=('noise noisy.nii.gz --map clean.nii.gz', 'exists; use --force'),
    under_a_file=(
        'denoise noisy.nii.gz clean.nii.gz/out.nii.gz --method blur',
        'cannot make this folder',
    ),
    train_in_a_file=('train unet noisy.nii.gz --clean clean.nii.gz --out mask.nii.gz', 'is a file'),
    train_among_files=('train unet noisy.nii.gz --clean clean.nii.gz --out .', 'not a model'),
    train_other=(
        'train unet noisy.nii.gz --clean clean.nii.gz --out model --preset tiny --steps 9',
        'steps 3, not 9',
    ),
    one_volume=('denoise noisy.nii.gz out.nii.gz --method mppca', 'series'),
    experiment=('run compar --out out', 'no such experiment'),
    experiment_out=('run compare', '--out'),
    usage_option=('denoise noisy.nii.gz out.nii.gz --metod blur', '--metod'),
    usage_command=('denoize noisy.nii.gz', 'denoize'),
    usage_number=('simulate clean.nii.gz out.nii.gz --snr high', 'valid number'),
    usage_missing=('denoise noisy.nii.gz', 'OUT'),
    usage_help=('denoise noisy.nii.gz', '(mri-diffusion denoise --help)'),
    denoise_seed=(
        'denoise noisy.nii.gz out.nii.gz --method blur --seed -1',
        'seed -1: give 0 or more',
    ),
    train_seed=(
        'train unet noisy.nii.gz --clean clean.nii.gz --out out --preset tiny --seed -1',
        'seed -1: give 0 or more',
    ),
    simulate_seed=('simulate clean.nii.gz out.nii.gz --snr 9 --seed -1', 'seed -1: give 0 or more'),
    run_seed=('run compare -p seed -1 --out out', 'seed = -1; give 0 or more'),
)


@pytest.mark.parametrize('kind', CALLS)
def test_bad_call(files, cli, monkeypatch, kind):
    line, said = CALLS[kind]
    monkeypatch.chdir(files)
    refused(cli, line.split(), files / 'out', said)


def test_folder_that_cannot_be_written(files, cli):
    folder = files / 'locked'
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        folder = type(files)('/proc')  # root may write anywhere but there
    got = cli('denoise', files / 'noisy.nii.gz', folder / 'out.nii.gz', '--method', 'blur')
    assert got.code == 2 and 'cannot write there' in got.err and got.err.count('\n') == 1
    got = cli(
        'train',
        'unet',
        files / 'noisy.nii.gz',
        '--clean',
        files / 'clean.nii.gz',
        '--out',
        folder / 'model',
        '--preset',
        'tiny',
    )
    assert got.code == 2 and 'cannot make this folder' in got.err and got.err.count('\n') == 1


def test_failures_are_one_line_too(files, cli, monkeypatch):
    from mri_diffusion.app import cli as module

    for error, code, said in (
        (MemoryError(), 1, 'memory'),
        (OSError(28, 'No space left on device', 'out.nii'), 1, 'No space left'),
        (KeyboardInterrupt(), 130, 'interrupted'),
        (KeyError('x'), 1, 'MRI_DIFFUSION_DEBUG'),
    ):

        def fail(*a, error=error, **k):
            raise error

        monkeypatch.setattr(module, 'denoise_scan', fail)
        got = cli('denoise', files / 'noisy.nii.gz', files / 'out.nii.gz')
        assert (
            got.code == code
            and said in got.err
            and got.err.count('\n') == 1
            and 'Traceback' not in got.err
        )
    monkeypatch.setenv('MRI_DIFFUSION_DEBUG', '1')
    assert 'Traceback' in cli('denoise', files / 'noisy.nii.gz', files / 'out.nii.gz').err


def test_constant_clean(files, cli):
    scan = Scan.load(files / 'noisy.nii.gz')
    flat = image(files / 'bad.nii.gz', np.ones(scan.shape), scan.affine)
    refused(
        cli,
        [
            'train',
            'unet',
            files / 'noisy.nii.gz',
            '--clean',
            flat,
            '--out',
            files / 'm',
            '--preset',
            'tiny',
        ],
        files / 'm',
        'constant',
    )
