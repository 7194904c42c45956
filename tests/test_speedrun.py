"The speedrun: an entry from a file, time that counts, entries that cannot be"

import pandas as pd
import pytest
from test_leaderboard import run_here

from mri_diffusion.app.experiments import run_experiment
from mri_diffusion.core import InputError

MINE = """import numpy as np
from scipy.ndimage import gaussian_filter
def denoise(noisy, sigma, train):
    assert train.ndim == noisy.ndim == 3 and sigma > 0 and not np.array_equal(train, noisy)
    return gaussian_filter(noisy, 0.4)
"""


def test_an_entry_from_a_file_stands_on_the_board(tmp_path):
    (tmp_path / 'mine.py').write_text(MINE)
    run = dict(entry=str(tmp_path / 'mine.py'), budget=0.2)
    found = run_experiment('speedrun', tmp_path / 'run', run, quiet=True)
    board = pd.read_csv(tmp_path / 'run/speedrun.csv').set_index('entry')
    assert board.psnr['blur'] != board.psnr['mine'] > 18 and board['within budget']['mine']
    over = board.loc['unet from scratch']
    assert over.seconds > 0.2 and not over['within budget']  # Twelve steps take longer
    ranked = board.index[board['within budget']]
    assert list(board.index[: len(ranked)]) == list(ranked) and len(found['board']) == 5


@pytest.mark.parametrize(
    'params, said',
    [
        (dict(entry='none.py'), 'entry none.py: no such file'),
        (dict(entry='unett'), "method 'unett': unknown"),
        (dict(entry='unet', settings='copies 4'), 'settings copies 4: not JSON'),
        (dict(preset='paper'), "preset 'paper': choose tiny or laptop"),
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_is_refused(tmp_path, params, said):
    with pytest.raises(InputError, match=said):
        run_here('speedrun', tmp_path / 'run', **params)
