"""No step of a method mixes devices: on a pretended GPU, which refuses what a real one would.

What only a real one can show (speed, memory, the last bits) is measured by tools/gpu.sh.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[1]
GROUPS = dict(
    package='unet_shipped unet_tuned unet_pairs diffusion_shipped unet_pca',
    networks='unet_scratch diffusion_scratch nafnet',
    ddm2='ddm2 ddm2_blocks ddm2_gaussian',
    images='n2n diffdenoise diffdenoise_published noise2score corruption2self dip',
    series='r2r',
)


def on_gpu(*args, script='tests/on_gpu.py'):
    "What the script prints last"
    run = subprocess.run(
        [sys.executable, script, *args], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_pretended_gpu_refuses():
    found = on_gpu()
    assert len(found) == 8
    assert all(found.values()), found


@pytest.mark.parametrize('group', GROUPS)
def test_methods_keep_to_their_device(group):
    found = on_gpu(*GROUPS[group].split())
    assert list(found) == GROUPS[group].split()
    assert not any(found.values()), found


def test_recipe_and_resume_on_the_device(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tools']; import pretend_gpu; pretend_gpu.pretend(); "
        f"import gpu; code = gpu.main([{str(tmp_path)!r}, '--device', 'cuda', '--tiny', '--parts', "
        "'network,pretrain,resume']); print(code)"
    )
    assert on_gpu(code, script='-c') == 0
    for part in ('network', 'pretrain', 'resume'):
        found = json.loads((tmp_path / f'{part}.json').read_text())
        assert found['machine']['gpu'] == 'pretended'
        assert found['rows'] and not [r for r in found['rows'] if r['error']], part
    same = [r['value'] for r in found['rows'] if 'same bits' in r['what']]
    assert same and all(same)
