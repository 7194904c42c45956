#!/usr/bin/env bash
# MONAI 1.6.1, torch 2.13.0 (CPU), seen 2026-11-27.
# Guess: sliding_window_inference of an image in bfloat16 with a network that returns its input gives
#   the image back to one rounding (0.8 %); windows are added up in a wider type.
# Behaviour: the sums over windows and their weights are held in the type of the input. Each window
#   adds a rounding, so that a finer overlap, meant to smooth seams, makes errors of up to 12 %. A
#   constant image hides it (exact). A float32 image under autocast is summed in float32.
# Output seen (image 0.5 to 1, windows 16 in 40 voxels a side; largest relative error):
#   bfloat16, overlap 0.25: constant 0.009, gaussian 0.014
#   bfloat16, overlap 0.5: constant 0.009, gaussian 0.043
#   bfloat16, overlap 0.75: constant 0.062, gaussian 0.115
#   image of ones: 0.000; float32 under autocast: 0.007
# For a user: give the image as float32 and let autocast choose the network's type.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet monai==1.6.1 torch==2.13.0 numpy==2.4.6
OMP_NUM_THREADS=1 v/bin/python - 2>log <<'EOF' || { cat log >&2; exit 1; }
import torch
from monai.inferers import sliding_window_inference

torch.manual_seed(0)
image = torch.rand(1, 1, 40, 40, 40) / 2 + 0.5
half = image.bfloat16()


def error(x, overlap, mode, network=torch.nn.Identity()):
    with torch.no_grad():
        out = sliding_window_inference(x, (16, 16, 16), 4, network, overlap=overlap, mode=mode)
    assert out.dtype == x.dtype
    return float((abs(out.float() - x.float()) / x.float()).max())


seen = {}
for overlap in (0.25, 0.5, 0.75):
    for mode in ("constant", "gaussian"):
        seen[overlap, mode] = error(half, overlap, mode)
    print(f"bfloat16, overlap {overlap}: constant {seen[overlap, 'constant']:.3f},",
          f"gaussian {seen[overlap, 'gaussian']:.3f}")
ones = error(torch.ones_like(half), 0.75, "gaussian")
copy = torch.nn.Conv3d(1, 1, 1, bias=False)
copy.weight.data.fill_(1)
with torch.autocast("cpu", torch.bfloat16):
    auto = error(image, 0.75, "gaussian", copy)
print(f"image of ones: {ones:.3f}; float32 under autocast: {auto:.3f}")
assert seen[0.75, "gaussian"] > 0.06 > 0.03 > seen[0.25, "gaussian"]
assert seen[0.75, "constant"] > 0.03 and ones == 0 and auto < 0.01
EOF
