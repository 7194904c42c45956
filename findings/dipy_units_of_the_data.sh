#!/usr/bin/env bash
# DIPY 1.12.1 (numpy 2.4.6), seen 2026-11-27.
# Guess: a denoiser that is told sigma, and an estimator of sigma, scale with their data: data and
#   sigma times s give the output times s, up to rounding.
# Behaviour: nlmeans with method="blockwise" (the default) has absolute limits: at a scale of 1e-5
#   it returns its input, without a word; at 1e-4 it denoises less. The classic
#   method scales. piesno calls 99 % of pure noise noise at scale 1, and no voxel at 1e-9.
# Output seen (error to the clean image in units of scale 1; noise is 30):
#   scale 1: blockwise 17.7, changed by up to 227; classic 3.1
#   scale 0.001: blockwise 17.7, changed by up to 227; classic 3.1
#   scale 0.0001: blockwise 23.0, changed by up to 192; classic 3.1
#   scale 1e-05: blockwise 30.1, changed by up to 0; classic 3.1
#   piesno noise voxels: 99 % at scale 1, 0 % at 1e-9
# For a user: images reconstructed from raw k-space often have values near 1e-5. Bring them to a
#   range of 1 to 1000 first, with sigma, and look at what was changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet dipy==1.12.1 numpy==2.4.6
OMP_NUM_THREADS=1 v/bin/python - <<'EOF'
import numpy as np
from dipy.denoise.nlmeans import nlmeans
from dipy.denoise.noise_estimate import piesno

rng = np.random.default_rng(0)
clean = np.full((20, 20, 20), 500.0)
clean[8:14] = 1000
noisy = clean + rng.normal(0, 30, clean.shape)


def rms(x):
    return float(np.sqrt(np.mean(x**2)))


error, change = {}, {}
for s in (1, 1e-3, 1e-4, 1e-5):
    for method in ("blockwise", "classic"):
        out = nlmeans(noisy * s, sigma=30.0 * s, rician=False, method=method) / s
        error[method, s] = rms(out - clean)
        change[method, s] = abs(out - noisy).max()
    print(f"scale {s}: blockwise {error['blockwise', s]:.1f}, changed by up to",
          f"{change['blockwise', s]:.0f}; classic {error['classic', s]:.1f}")
assert change["blockwise", 1] > 50 and change["blockwise", 1e-5] < 1e-6
assert error["blockwise", 1] < 0.7 * rms(noisy - clean)
assert abs(error["classic", 1] - error["classic", 1e-5]) < 1e-6
noise = np.hypot(*rng.normal(0, 20, (2, 20, 20, 4, 12)))
found = [100 * piesno(noise * s, N=1, return_mask=True)[1].mean() for s in (1, 1e-9)]
print(f"piesno noise voxels: {found[0]:.0f} % at scale 1, {found[1]:.0f} % at 1e-9")
assert found[0] > 95 and found[1] == 0
EOF
