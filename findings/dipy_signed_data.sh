#!/usr/bin/env bash
# DIPY 1.12.1 (numpy 2.4.6), seen 2026-11-27.
# Guess: nlmeans(rician=False) averages what it is given, so that zero-mean noise comes back near 0
#   and an image of -1000 stays near -1000.
# Behaviour: it loses the sign. Zero-mean Gaussian noise (sd 50) comes back near its root mean
#   square, far from 0 everywhere with the classic method; an image of -1000 +- 50 comes back near +1000.
#   gibbs_removal of -x is positive too, and neither its result for x nor the negative of that.
#   Neither docstring limits the input to magnitudes; "rician=False" is said to be the Gaussian model.
# Output seen:
#   nlmeans classic: noise mean 4.0 -> 49.8, min 46.7; -1000 -> 999.4
#   nlmeans blockwise: noise mean 4.0 -> 42.4, min 1.2; -1000 -> 996.0
#   gibbs_removal of x and -x: smallest values 845.7 and 5.5, apart by up to 1189
# For a user: real and imaginary channels, phase-corrected data, perfusion differences and residuals
#   must not be given to them as they are (add an offset first, or denoise otherwise).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet dipy==1.12.1 numpy==2.4.6
OMP_NUM_THREADS=1 v/bin/python - <<'EOF'
import numpy as np
from dipy.denoise.gibbs import gibbs_removal
from dipy.denoise.nlmeans import nlmeans

noise = np.random.default_rng(0).normal(0, 50, (20, 20, 20))
inner = (slice(6, -6),) * 3
for method in ("classic", "blockwise"):
    zero = nlmeans(noise, sigma=50.0, rician=False, method=method)[inner]
    low = nlmeans(noise - 1000, sigma=50.0, rician=False, method=method)[inner]
    print(f"nlmeans {method}: noise mean {noise[inner].mean():.1f} -> {zero.mean():.1f},",
          f"min {zero.min():.1f}; -1000 -> {low.mean():.1f}")
    assert 30 < zero.mean() < 60 and 980 < low.mean() < 1020
    if method == "classic":
        assert zero.min() > 30
x = noise + 1000
up, down = (gibbs_removal(s * x, inplace=False) for s in (1, -1))
print(f"gibbs_removal of x and -x: smallest values {up.min():.1f} and {down.min():.1f},",
      f"apart by up to {abs(up - down).max():.0f}")
assert up.min() > 800 and down.min() >= 0 and abs(up - down).max() > 500
EOF
