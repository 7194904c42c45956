"""`python tools/results.py RUNS NAME 'COMMAND'`: the tables of a sweep as results/NAME.csv.

How they were made is kept beside them as results/NAME.json.
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


def gather(runs, name, command, folder='results'):
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
    pd.concat(rows).round(5).to_csv(folder / f'{name}.csv', index=False)
    write_json(
        folder / f'{name}.json',
        dict(command=command, runs=params, environment=env, processor=processor()),
    )
    print(f'{folder / name}.csv: {len(rows)} runs')


if __name__ == '__main__':
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    gather(*sys.argv[1:])
