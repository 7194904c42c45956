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
    ddm2='ddm2 ddm2_gaussian',
    blocks='ddm2_blocks',
    images='n2n noise2score corruption2self dip',
    diffdenoise='diffdenoise diffdenoise_published',
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


# One size, one precision, no limit of time: what counts is the device
TINY = (
    "gpu.TINY['sides'] = (16,); gpu.PARTS = dict.fromkeys(gpu.PARTS, 1e4); "
    "gpu.Run.precisions = property(lambda run: ('bf16',), lambda *_: None); "
)


@pytest.mark.parametrize('parts', ['network,pretrain', 'resume'])
def test_recipe_and_resume_on_the_device(tmp_path, parts):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tools']; import pretend_gpu; pretend_gpu.pretend(); "
        f'import gpu; {TINY}'
        f"code = gpu.main([{str(tmp_path)!r}, '--device', 'cuda', '--tiny', '--parts', {parts!r}, "
        "'--minutes', '100']); print(code)"
    )
    assert on_gpu(code, script='-c') == 0
    for part in parts.split(','):
        found = json.loads((tmp_path / f'{part}.json').read_text())
        assert found['machine']['gpu'] == 'pretended'
        assert found['rows'] and not [r for r in found['rows'] if r['error']], part
    same = [r['value'] for r in found['rows'] if 'same bits' in r['what']]
    assert all(same) and len(same) == (4 if parts == 'resume' else 0)
