"What the image scores refuse, in one line"

import numpy as np
import pytest

from mri_diffusion.core import InputError
from mri_diffusion.judge.scores import (
    hfen,
    psnr,
    psnr_repeats,
    repeat_scores,
    residual_stats,
    structural_error_reduction,
)

rng = np.random.default_rng(0)
CLEAN = rng.uniform(0.5, 1, (6, 6, 4))
REPEATS = CLEAN[..., None] + 0.1 * rng.standard_normal((6, 6, 4, 3))
NOTHING = np.zeros(CLEAN.shape)


@pytest.mark.parametrize(
    'said, score, arguments',
    [
        ('must agree', psnr, dict(clean=CLEAN[1:])),
        ('mask is empty', psnr, dict(clean=CLEAN, mask=NOTHING)),
        ('mask has shape', psnr, dict(clean=CLEAN, mask=NOTHING[1:] + 1)),
        ('give data_range', psnr, dict(clean=NOTHING)),
        ('noisy equals clean', structural_error_reduction, dict(noisy=CLEAN, clean=CLEAN)),
        ('no edges', hfen, dict(clean=NOTHING)),
        ('N of at least 2', psnr_repeats, dict(repeats=REPEATS[..., :1])),
        ('N of at least 2', repeat_scores, dict(repeats=REPEATS[1:])),
        ('count from 0', repeat_scores, dict(repeats=REPEATS, input_index=3)),
        ('mask is empty', repeat_scores, dict(repeats=REPEATS, mask=NOTHING)),
        ('sigma must be positive', residual_stats, dict(sigma=0.0)),
    ],
)
def test_refused(said, score, arguments):
    with pytest.raises(InputError, match=said) as e:
        score(CLEAN, **arguments)
    assert '\n' not in str(e.value)
