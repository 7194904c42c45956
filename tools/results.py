"""`python tools/results.py RUNS NAME 'COMMAND' ['NOTE'] [--keep]`: a sweep as results/NAME.csv.

How they were made is kept beside them as results/NAME.json. With `--keep` rows of the table there
that RUNS does not have stay: the column `run` says of which run a row is (1: the oldest), and the
commands of the earlier runs stay in NAME.json under `earlier`.
"""

import platform
import re
import sys
from pathlib import Path

import pandas as pd

from mri_diffusion.core import read_json, write_json


def processor():
    "Name of the processor, where the system tells it"
    info = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or 'unknown'


def merged(new, facts, table, known):
    "New rows, and those of the earlier table that they do not replace; facts of all their runs"
    if not table.exists():
        return new.assign(run=1), facts
    old, before = pd.read_csv(table), read_json(known)
    earlier = [*before.pop('earlier', []), before]
    old = old.assign(run=1) if 'run' not in old else old
    new = new.assign(run=len(earlier) + 1)
    keys = [k for k in ('scan', 'noise', 'method', 'seed') if k in old and k in new]
    label = lambda t: t[keys].astype(str).agg('|'.join, axis=1)
    stays = old[~label(old).isin(set(label(new)))]
    return pd.concat([new, stays]), facts | dict(earlier=earlier)


def gather(runs, name, command, folder='results', note='', keep=False):
    "Every metrics.csv below `runs`, with the parameters of its run in front"
    rows, params, env = [], [], {}
    for p in sorted(Path(runs).rglob('params.json')):
        if not (p.parent / 'result.json').exists():
            sys.exit(f'{p.parent}: not finished')
        known = read_json(p)
        table = pd.read_csv(p.parent / 'metrics.csv')
        table.insert(
            0, 'seed' if 'seed' in known else 'run', known.get('seed', p.parent.name)
        ) if 'seed' not in table else None
        for k in ('clip', 'protocol', 'snr', 'group', 'noise', 'form'):
            column = (
                'b0_snr' if k == 'snr' and k in table else k
            )  # `dti` has a column snr: that of the corpus callosum
            if k in known and column not in table:
                table.insert(0, column, known[k])
        if known.get('truth') in ('repeats', 'none'):
            table = table.assign(noise='of the scan', snr=None)  # nothing was added
        result = read_json(p.parent / 'result.json')
        if 'blind_error_over_noise' in result.get('headline', {}):
            table.loc[table.row == 'blind mean', 'error_over_noise'] = result['headline'][
                'blind_error_over_noise'
            ]
        if 'costs' in result:
            for k in ('parameters', 'train_seconds', 'training_steps', 'gflop_per_pass_of_a_patch'):
                table[k] = [result['costs'].get(m.split(',')[0], {}).get(k) for m in table.method]
        rows.append(table)
        params.append(known)
        env = read_json(p.parent / 'env.json')
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    new = pd.concat(rows).round(5)
    facts = dict(command=command, runs=params, environment=env, processor=processor())
    facts |= dict(note=note) if note else {}
    table, known = folder / f'{name}.csv', folder / f'{name}.json'
    if keep:
        new, facts = merged(new, facts, table, known)
    new.to_csv(table, index=False)
    write_json(known, facts)
    print(f'{folder / name}.csv: {len(rows)} runs')


if __name__ == '__main__':
    words = [w for w in sys.argv[1:] if w != '--keep']
    if len(words) not in (3, 4):
        sys.exit(__doc__)
    gather(*words[:3], note=''.join(words[3:]), keep='--keep' in sys.argv)
