"""`python tools/headline.py`: the leaderboard's table, time and memory on the page of the results

The table comes from results/leaderboard.csv (of the lesions what it lacks from results/lesions.csv),
the seconds from results/speed.json, the memory from results/memory.csv; methods that were not
measured are left out. The index page gets its one line of evidence, from results/series.csv.
"""

import json
import re

import pandas as pd
from project import root

from mri_diffusion.judge.leaderboard import summarise_board
from mri_diffusion.methods.registry import methods

SCANS = {
    'T1': 't1',
    'phantom': 'phantom',
    'real anatomy': 'dwi.nii.gz',
    'repeats': 'brain_b100_x6.nii.gz',
}
INDEX, RESULTS = root / 'nbs/index.ipynb', root / 'nbs/docs/results.ipynb'


def boards():
    "Scan -> its board, one row a method"
    rows = pd.read_csv(root / 'results/leaderboard.csv')
    rows = rows[rows.noise != 'ncchi'].drop(columns=['noise', 'snr', 'run'], errors='ignore')
    return {
        k: summarise_board(
            rows[rows.scan == s].drop(columns='scan').dropna(axis=1, how='all'), 'psnr'
        ).set_index('method')
        for k, s in SCANS.items()
    }


def cell(board, name):
    "PSNR with its spread, error of FA, and standing"
    if name not in board.index:
        return ''
    r = board.loc[name]
    fa = f' / {r.fa_error:.3f}' if 'fa_error' in board else ''
    return f'{r.psnr:.2f} +- {r.psnr_std:.2f}{fa}' + {
        'best': ' **best**',
        'tie': ' tie',
        'not known': ' not known',
    }.get(r.standing, '')


def lesions():
    "Method -> mean fraction of a lesion's contrast kept: on the T1, or (series) on the phantom"
    board = boards()['T1']
    own = board.kept.dropna().to_dict() if 'kept' in board else {}
    rows = pd.read_csv(root / 'results/lesions.csv')
    kept = (
        rows.assign(kept=rows[['bright', 'dark']].mean(axis=1))
        .groupby(['scan', 'method'])
        .kept.mean()
    )
    return kept['series'].to_dict() | kept['volume'].to_dict() | own


def table():
    "Lines of the table: methods of volumes first, best first"
    found, known, kept = boards(), methods(), lesions()

    def cost(name, key):
        return max(
            float(b.loc[name, key]) for b in (found['T1'], found['phantom']) if name in b.index
        )

    names = dict.fromkeys(n for b in found.values() for n in b.index)
    measured = [n for n in names if n in known or n.endswith(', shipped')]
    order = sorted(measured, key=lambda n: tuple(-b.psnr.get(n, -99) for b in found.values()))
    kind = lambda n: ' (supervised)' if n in known and known[n].needs == 'pairs' else ''
    label = lambda n: ', '.join([f'`{n.split(", ")[0]}`', *n.split(', ')[1:]]) + kind(n)
    head = [
        'method',
        *found,
        'lesions kept',
        'parameters',
        'training, s (the longer of T1 and phantom)',
    ]
    lines = [head, ['---'] * len(head)] + [
        [
            label(n),
            *(cell(b, n) for b in found.values()),
            f'{kept[n]:.2f}' if n in kept else '',
            f'{cost(n, "parameters"):,.0f}',
            f'{cost(n, "train_seconds"):.0f}',
        ]
        for n in order
    ]
    return '\n'.join(
        '| ' + ' | '.join(x) + ' |' if x[0] != '---' else '|' + '|'.join(x) + '|' for x in lines
    )


def speed():
    "The line of seconds of a series, fastest first"
    facts = json.loads((root / 'results/speed.json').read_text(encoding='utf-8'))
    said, most = [], max(r['rounds'] for r in facts['summary'])
    for r in facts['summary']:
        version = facts['versions'].get(r['method'], '').partition(',')[0]
        name = re.sub(r'^(\w+)', r'`\1`', r['method']).replace('old build', f'as of {version}')
        few = f', {r["rounds"]} rounds' * (r['rounds'] < most)
        said.append(f'{name} {r["core"]:.3g} ({r["psnr"]:.2f} dB{few})')
    return (
        'Seconds of a core that such a series takes at SNR 15, side by side with one thread and the '
        f'same mask (a method that is told a mask may spare itself the rest): {"; ".join(said)}. '
        f'Medians of {most} rounds, by `tools/speed.py`, whole in `results/speed.csv`, '
        '[with ranges and ratios on the leaderboard](leaderboard.ipynb).'
    )


def memory():
    "The line of memory: the largest scan, and what is needed beside three times a scan"
    rows = pd.read_csv(root / 'results/memory.csv', keep_default_na=False)
    large = rows[(rows['size'] == 'hcp') & (rows.method == 'default')].iloc[0]
    most = {k: g.beyond_MiB.astype(float).max() / 1024 for k, g in rows.groupby('size')}
    return (
        f'Memory: {large["shape"].replace("x", " x ")}, {large.scan_MiB / 1024:.1f} GiB as float32, '
        f'went through `denoise` in {large.MiB / 1024:.1f} GiB. No command of the table took more '
        f'than three times the scan as float32 and {most["series"]:.1f} GiB (128 x 128 x 60 x 33) or '
        f'{most["volume"]:.1f} GiB (256 x 256 x 256): `tools/memory.py`, `results/memory.csv`.'
    )


def evidence():
    "One line: the network of the package beside MP-PCA and the noisy series"
    rows = pd.read_csv(root / 'results/series.csv')
    rows = rows[(rows.truth == 'tensor') & (rows.directions == 32) & (rows.snr == 15)]
    mean, seeds = rows.groupby('method')[['psnr', 'fa_error']].mean(), rows.seed.nunique()
    took = rows.groupby('method').seconds.mean()
    share = took['unet_pca'] / took['mppca']
    of = lambda m: f'{mean.psnr[m]:.1f} dB, FA error {mean.fa_error[m]:.3f}'
    return (
        f'Evidence: on a real head with a known truth (32 directions, SNR 15, {seeds} seeds) the '
        f"noisy series has {of('noisy')}; DIPY's MP-PCA {of('mppca')}; this {of('unet_pca')}, in "
        f'{share:.2f} of its time ([all results](docs/results.ipynb)).'
    )


PATTERNS = {  # Page, what is replaced on it -> what makes it
    (RESULTS, r'Memory: .*?`results/memory.csv`\.'): memory,
    (RESULTS, r'\| method \| T1 \|.*?(?=\n\n)'): table,
    (RESULTS, r'Seconds of a core that such a series takes.*?(?=\n\n|$)'): speed,
    (INDEX, r'Evidence: .*?docs/results.ipynb\)\)\.'): evidence,
}


def stale():
    "True if a page holds another table, other seconds, another memory or other evidence"
    cells = {p: json.loads(p.read_text(encoding='utf-8'))['cells'] for p in (INDEX, RESULTS)}
    text = {p: '\n'.join(''.join(c['source']) for c in found) for p, found in cells.items()}
    return not all(make() in text[p] for (p, _), make in PATTERNS.items())


def fill(page, pattern, make):
    "Replace what a pattern finds in one cell of a page"
    nb = json.loads(page.read_text(encoding='utf-8'))
    at = [c for c in nb['cells'] if re.search(pattern, ''.join(c['source']), re.S)]
    if len(at) != 1:
        raise SystemExit(f'{page}: {len(at)} cells with the {make.__name__}; one is wanted')
    new = re.sub(pattern, lambda _: make(), ''.join(at[0]['source']), flags=re.S)
    at[0]['source'] = new.splitlines(True)
    page.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    for (page, pattern), make in PATTERNS.items():
        fill(page, pattern, make)
