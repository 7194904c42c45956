"The bench: its structure, its comparison, what it refuses; never how fast anything is"

import json
import os
import sys

import numpy as np
import pytest

from mri_diffusion.app import bench
from mri_diffusion.app.bench import (
    FORMAT,
    PARTS,
    SIZES,
    Case,
    alternate,
    bare_loop,
    bench_data,
    bench_machine,
    bench_settings,
    check_comparable,
    compare_benches,
    has_bfloat16,
    measure_memory,
    read_bench,
    run_bench,
    summary,
)
from mri_diffusion.app.cli import main
from mri_diffusion.app.texts import bench_text, compare_text
from mri_diffusion.core import InputError, MriDiffusionError, read_json, temporary_folder

QUICK = SIZES['quick']


@pytest.fixture(scope='module')
def data():
    return bench_data(QUICK['volume'], QUICK['series'])


@pytest.fixture(scope='module')
def whole():
    "A quick bench of all that is timed"
    settings = bench_settings(PARTS[:-1], 'quick', threads=1, device='cpu')
    return run_bench(settings, quiet=True)


def rows_of(found, part):
    return {r['name']: r for r in found['rows'] if r['part'] == part}


def test_every_shipped_method_has_a_row(whole):
    assert {'unet', 'diffusion', 'nlmeans (DIPY)'} <= set(rows_of(whole, 'volume'))
    assert {'unet_pca', 'wiener', 'mppca (DIPY)'} <= set(rows_of(whole, 'series'))
    both = [f'{m}, {loop}' for m in ('unet', 'ddm2', 'r2r') for loop in ('bare loop', 'fit')]
    assert set(rows_of(whole, 'training')) == set(both)


def test_every_time_is_kept_and_ratios_are_round_by_round(whole):
    first = dict(volume='nlmeans (DIPY)', series='mppca (DIPY)', precision='unet (float32)')
    for part, name in first.items():
        rows = rows_of(whole, part)
        reference = rows[name]['times']
        for r in rows.values():
            if 'times' not in r:
                continue
            assert len(r['times']) == QUICK['rounds'] and r['reference'] == name
            assert np.allclose(r['ratios'], np.divide(r['times'], reference))
            assert r['low'] <= r['median'] <= r['high']
    for name, r in rows_of(whole, 'training').items():
        pairs = QUICK['pairs'][name.split(',')[0]]
        assert len(r['singles']) == pairs * QUICK['rounds']
        assert r['times'] == [np.median(r['singles'][k : k + pairs]) for k in (0, pairs)]


def test_shares_lie_between_nothing_and_about_the_peak(whole):
    shares = {r['name']: r['share'] for r in whole['rows'] if 'share' in r}
    assert {'unet', 'diffusion', 'unet_pca', 'unet, fit'} <= set(shares)
    assert all(0 < s < 2 for s in shares.values()), shares
    classical = rows_of(whole, 'series')['mppca (DIPY)'], rows_of(whole, 'volume')['nlmeans (DIPY)']
    assert not any('share' in r for r in classical)


def test_all_of_a_part_get_the_same_scan(whole, data):
    for part in ('volume', 'precision', 'series'):
        seen = {r['input'] for r in rows_of(whole, part).values() if 'input' in r}
        assert seen == {bench._digest(data['series' if part == 'series' else 'volume'])}


def test_the_bench_denoises(whole, data):
    "What is timed is the method itself: its result is nearer to the truth than the scan"
    from mri_diffusion.judge.scores import psnr

    for part in ('volume', 'series'):
        clean = data[f'{part}_clean']
        mask = clean.reshape(*clean.shape[:3], -1).any(-1)
        before = psnr(data[part], clean, mask)
        assert all(r['psnr'] > before + 0.3 for r in rows_of(whole, part).values() if 'psnr' in r)


def test_half_precision_is_a_row_or_a_line(whole):
    rows = rows_of(whole, 'precision')
    full, half = rows['unet (float32)'], rows['unet (bf16)']
    if has_bfloat16('cpu'):
        assert abs(half['psnr'] - full['psnr']) < 0.1 and half['precision'] == 'bf16'
        assert {'product (float32)', 'product (bf16)'} == set(rows_of(whole, 'machine'))
    else:
        assert half['note'] and 'times' not in half


def test_without_units_for_bf16_a_line_says_so(monkeypatch, data):
    monkeypatch.setattr(bench, 'has_bfloat16', lambda device='cpu': False)
    how = QUICK | dict(threads=1, device='cpu', seed=0, quiet=True)
    rows, peaks = bench._time_part('precision', data, how)
    assert [r['note'] for r in rows] == ['', bench._NO_UNITS] * 2 and list(peaks) == ['no']
    assert bench._machine(peaks, how)[-1]['note'] == bench._NO_UNITS


def test_a_network_stored_channels_first_gives_the_same(data):
    run = {last: bench._pass(False, last, data, dict(device='cpu')).run for last in (True, False)}
    same = [f(data['volume']) for f in run.values()]
    assert np.allclose(*same, rtol=1e-3, atol=0.05 * data['sigma'])


def test_a_case_that_changes_the_scan_is_found(data):
    def spoils(x):
        x[0, 0, 0] += 1
        return x

    with pytest.raises(MriDiffusionError, match='spoils: changed the scan'):
        bench._first_calls(dict(spoils=Case(spoils)), data['volume'].copy())


def test_the_bare_loop_trains_on_the_batches_of_fit(data):
    "Without averaging, limit and schedule, the two loops are the same to the last bit"
    import copy

    import torch

    from mri_diffusion.learn.train import batches_from, fit

    how = QUICK | dict(device='cpu', seed=0)
    task = bench._task('unet', data, how)
    own, bare = task['net'], copy.deepcopy(task['net']).train()
    order = batches_from(len(task['data']), 2, 0, 0, 5)
    loop = bare_loop(
        bare,
        task['objective'],
        iter(torch.utils.data.DataLoader(task['data'], batch_sampler=order)),
        1e-3,
    )
    losses = [float(x.detach()) for x in loop]
    plain = dict(clip=0, ema=0, warmup=0, decay='constant', weight_decay=0.01, batch=2, seed=0)
    found = fit(own, task['objective'], task['data'], 5, 1e-3, device='cpu', quiet=True, **plain)
    assert found['loss'].tolist() == losses
    pairs = zip(own.parameters(), bare.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_a_method_hands_to_fit_is_caught_and_fit_is_put_back(data):
    from mri_diffusion.methods import r2r

    original = r2r.fit
    task = bench._task('r2r', data, QUICK | dict(device='cpu', seed=0))
    assert r2r.fit is original and task['settings']['batch'] == 2
    with pytest.raises(MriDiffusionError, match='without `fit`'):
        bench._handed(r2r, lambda: None)
    assert r2r.fit is original


def test_turns_are_a_b_c(data):
    seen = []
    alternate({k: (lambda k=k: seen.append(k)) for k in 'abc'}, 3, quiet=True)
    assert ''.join(seen) == 'abcabcabc'


def test_memory_is_of_each_method_alone(data):
    "Large arrays of this process are not in it"
    held = np.ones(40_000_000)
    how = QUICK | dict(threads=1, device='cpu', seed=0, quiet=True)
    which = [('volume', 'nlmeans (DIPY)'), ('volume', 'unet')]
    with temporary_folder('bench') as folder:
        found = measure_memory(which, data, how | dict(folder=folder))
    small, large = (found[k]['peak'] for k in which)
    assert 0 <= small < large < held.nbytes
    assert found[which[0]]['before'] < held.nbytes


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(MriDiffusionError, match='volume unet: FileNotFoundError'):
        bench._answers([bench._start(tmp_path, 1, 'volume', 'unet')])


def command(folder, name, body):
    path = folder / name
    path.write_text(f'#!{sys.executable}\n{body}\n')
    path.chmod(0o755)


@pytest.mark.skipif(os.name == 'nt', reason='a script as a command')
def test_commands_of_others_are_used_where_they_are(monkeypatch, tmp_path, data):
    copies = 'import sys, shutil, gzip\na = sys.argv\n'
    copies += 'i, o = (a[1], a[2]) if "dwi" in a[0] else (a[4], a[8])\n'
    copies += 'gzip.open(o, "wb").write(open(i, "rb").read())'
    command(tmp_path, 'dwidenoise', copies)
    command(tmp_path, 'DenoiseImage', 'import sys; sys.exit("no such noise")')
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    how = QUICK | dict(threads=1, device='cpu', seed=0, folder=tmp_path)
    cases = dict(good=bench._dwidenoise(data, how))
    assert bench._first_calls(cases, data['series']) == dict(good=0)
    assert np.array_equal(cases['good'].run(data['series']), data['series'])
    cases = dict(bad=bench._ants(data, how))
    assert bench._first_calls(cases, data['volume']) == {}
    assert cases['bad'].run is None and cases['bad'].why == 'failed: no such noise'


def test_what_is_not_installed_is_a_line(monkeypatch, data, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(bench, 'find_spec', lambda name: None)
    how = dict(threads=1, folder=tmp_path)
    for make in (bench._dwidenoise, bench._ants):
        assert make(data, how) == Case(None, why='not installed')


# ---- Comparison ----


def made_up(seconds, reference=(1.0, 1.0, 1.0), name='unet', **more):
    settings = bench_settings(['volume'], 'quick', threads=1, device='cpu')
    row = dict(part='volume', name=name, reference='nlmeans', note='') | more
    about = dict(kind='mri_diffusion bench', format=FORMAT, environment={}, settings=settings)
    return about | dict(seconds=1.0, rows=[row | summary(seconds, reference)])


@pytest.mark.parametrize(
    'new, old, differs',
    [
        ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), True),
        ((2.0, 2.1, 2.2), (1.0, 1.1, 1.2), True),
        ((1.0, 1.1, 1.2), (1.0, 1.2, 2.2), False),  # within the range of the old one
        ((0.5, 1.1, 1.5), (1.9, 2.0, 2.1), False),  # within the range of the new one
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), False),
    ],
)
def test_a_change_is_marked_beyond_both_ranges(new, old, differs):
    rows = compare_benches(made_up(new), made_up(old))
    assert [r['what'] for r in rows] == ['seconds', 'reference']
    assert [r['differs'] for r in rows] == [differs] * 2
    assert rows[0]['ratio'] == pytest.approx(np.median(new) / np.median(old))
    assert rows[0]['low'] == pytest.approx(min(new) / max(old))
    assert ('differs' in compare_text(rows)) == differs


def test_a_slower_machine_changes_seconds_and_not_ratios():
    "Everything takes three times as long: the ratios to the reference stay"
    old, slow = (2.0, 2.1, 2.2), (6.0, 6.3, 6.6)
    seconds, ratio = compare_benches(made_up(slow, (3.0, 3.0, 3.0)), made_up(old))
    assert seconds['differs'] and not ratio['differs']
    assert seconds['ratio'] == pytest.approx(3) and ratio['ratio'] == pytest.approx(1)


def test_only_rows_of_both_are_compared():
    new, old = made_up((1.0, 1.0, 1.0)), made_up((1.0, 1.0, 1.0), name='diffusion')
    assert compare_benches(new, old) == []
    memory = [dict(peak_memory=p, bytes_per_voxel=1.0) for p in (3e6, 2e6)]
    rows = compare_benches(*(made_up((1.0, 1.0, 1.0), **m) for m in memory))
    assert rows[-1]['what'] == 'memory' and rows[-1]['ratio'] == 1.5


def test_a_bench_comes_back_from_its_file(tmp_path, whole):
    path = tmp_path / 'b.json'
    path.write_text(json.dumps(whole))
    rows = compare_benches(whole, read_bench(path))
    assert len(rows) > 20 and all(r['ratio'] == 1 and not r['differs'] for r in rows)


# ---- Refusals ----


@pytest.mark.parametrize(
    'change, said',
    [
        (dict(kind='scan'), 'no bench'),
        (dict(format=FORMAT + 1), f'a bench of format {FORMAT + 1}, not {FORMAT}'),
        (dict(rows=[dict(part='volume')]), 'rows.0.name'),
        (dict(settings=None), 'settings'),
    ],
)
def test_a_file_that_is_no_bench_is_refused(tmp_path, change, said):
    path = tmp_path / 'old.json'
    path.write_text(json.dumps(made_up((1.0, 1.0, 1.0)) | change))
    with pytest.raises(InputError, match=said):
        read_bench(path)


@pytest.mark.parametrize(
    'name, value', [('threads', 7), ('volume', [8, 8, 8]), ('series', [8, 8, 8, 9])]
)
def test_another_size_or_number_of_threads_is_refused(name, value):
    old = made_up((1.0, 1.0, 1.0))
    new = {**old['settings'], name: value}
    check_comparable(old, old['settings'])
    with pytest.raises(InputError, match=f'{name} was'):
        check_comparable(old, new)


@pytest.mark.parametrize(
    'how, said',
    [
        (dict(parts=['speed']), 'part speed: unknown; choose from volume, precision'),
        (dict(size='huge'), 'size huge'),
        (dict(threads=0), 'threads 0'),
        (dict(rounds=0), 'repeats 0'),
        (dict(rounds=1.5), 'repeats 1.5: give a whole number'),
        (dict(device='abacus'), 'abacus'),
        (dict(seed=-1), 'seed'),
    ],
)
def test_settings_that_cannot_be_are_refused(how, said):
    with pytest.raises(InputError, match=said):
        bench_settings(**how)


def test_nothing_is_measured_for_a_file_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, 'run_bench', lambda *a: pytest.fail('measured'))
    there = tmp_path / 'there.json'
    there.write_text('{}')
    for how in (dict(json=there), dict(compare=there), dict(compare=tmp_path / 'no.json')):
        with pytest.raises(InputError):
            bench_machine(['volume'], 'quick', **how)


# ---- The command ----


def words(*more):
    return ['bench', 'volume', '--quick', '--threads', '1', '--repeats', '1', '-q', *map(str, more)]


def test_the_command_prints_writes_and_compares(tmp_path, capsys):
    path = tmp_path / 'a.json'
    assert main(words('--json', path)) == 0
    found, said = read_json(path), capsys.readouterr().out
    assert said.strip() == bench_text(found).strip()
    assert {'environment', 'settings', 'rows', 'format', 'kind', 'seconds'} == set(found)
    assert found['environment']['torch'] and 'cpu' in found['environment']
    assert main(words('--compare', path)) == 0
    assert 'new/old' in capsys.readouterr().out
    assert main(['bench', 'volume', '--quick', '--threads', '2', '--compare', str(path), '-q']) == 2
    err = capsys.readouterr().err
    assert 'threads was 1, is 2' in err and err.count('\n') == 1


def test_interrupted_it_leaves_no_file(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, 'alternate', interrupted)
    assert main(words('--json', tmp_path / 'a.json')) == 130
    assert list(tmp_path.iterdir()) == []
