#!/usr/bin/env bash
# MONAI 1.6.1 with torch 2.13.0, seen 2026-11-29.
# Guess: a DiffusionModelUNet whose `attention_levels` are all False attends nowhere; its operations
#   grow as the number of pixels, and a net with fewer levels takes fewer operations.
# Behaviour: its middle block attends all the same, every pixel of the lowest level to every other, at
#   any setting. Three times the width of the image takes 18 times the operations with two levels,
#   and the net of two levels takes more than twice those of the net of four, which has nearly twice
#   the weights.
# Output seen (millions of operations of one pass, attention blocks):
#   levels 2: 32 x 32 17.6, 96 x 96 309.7, 1 attention block
#   levels 3: 32 x 32 15.7, 96 x 96 150.5, 1 attention block
#   levels 4: 32 x 32 15.6, 96 x 96 140.6, 1 attention block
# For a user: a net for patches that is then run on whole slices needs levels enough for the middle
#   block to be small there: a slice of 256 x 256 has 16,384 pixels at the second level, and as many
#   squared pairs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet torch==2.13.0 monai==1.6.1 numpy==2.4.6 einops==0.8.2
OMP_NUM_THREADS=1 v/bin/python - <<'EOF'
import torch
from monai.networks.nets import DiffusionModelUNet
from torch.utils.flop_counter import FlopCounterMode


def operations(net, side):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 1, side, side), torch.zeros(1, dtype=torch.long))
    return counter.get_total_flops() / 1e6


found = {}
for levels in (2, 3, 4):
    net = DiffusionModelUNet(
        2, 1, 1, num_res_blocks=1, channels=(8,) * levels, attention_levels=(False,) * levels,
        norm_num_groups=8, num_head_channels=8,
    ).eval()
    blocks = sum(type(m).__name__ == "SpatialAttentionBlock" for m in net.modules())
    small, large = found[levels] = operations(net, 32), operations(net, 96)
    print(f"levels {levels}: 32 x 32 {small:.1f}, 96 x 96 {large:.1f}, {blocks} attention block")
    assert blocks == 1
assert found[2][1] > 17 * found[2][0]  # 9 would be as the pixels
assert found[2][1] > 2 * found[4][1]
EOF
