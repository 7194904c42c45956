"The interfaces in the real nipype: nodes of a workflow, their outputs, their errors"

import os
import subprocess
import sys

import numpy as np
import pytest

os.environ['NIPYPE_NO_ET'] = '1'  # no question to nipype's server
pytest.importorskip('nipype', reason="needs pip install 'mri_diffusion[nipype]'")

from nipype import MapNode, Node, Workflow, config  # noqa: E402

from mri_diffusion.app.nipype_interface import Denoise, Noise  # noqa: E402
from mri_diffusion.core import read_json  # noqa: E402
from mri_diffusion.scans.nifti import Scan, read_nifti  # noqa: E402


@pytest.fixture
def study(files):
    "The small scans, in a folder whose name a shell would take apart"
    place = files.parent / "it's a study; $HOME (1)"
    files.rename(place)
    config.set('execution', 'crashdump_dir', str(place))
    return place


def test_a_workflow_measures_and_denoises(study):
    measure = Node(Noise(in_file=study / 'noisy.nii.gz', noise_map=True), 'measure')
    denoise = Node(Denoise(method='nlmeans', residual=True, noise_map=True), 'denoise')
    denoise.inputs.in_file = str(study / 'noisy.nii.gz')
    flow = Workflow('flow', base_dir=str(study))
    flow.connect(measure, 'sigma', denoise, 'sigma')
    flow.config['execution'] = dict(remove_unnecessary_outputs=False)
    found = {n.name: n.result.outputs for n in flow.run().nodes()}
    level, out = found['measure'], found['denoise']
    said = read_json(level.out_file)
    assert level.sigma == said['sigma'] and level.distribution == said['distribution']
    assert out.sigma == pytest.approx(level.sigma) and out.method == 'nlmeans'
    noisy, denoised = (Scan.load(p).data for p in (study / 'noisy.nii.gz', out.out_file))
    assert np.allclose(noisy - denoised, Scan.load(out.residual).data, atol=1e-5)
    assert out.out_file == str(study / 'flow/denoise/noisy_denoised.nii.gz')
    assert np.allclose(read_nifti(out.noise_map)[0], out.sigma, rtol=1e-3)
    assert read_json(out.record)['Method'] == 'nlmeans'
    assert read_nifti(level.noise_map)[0].shape == noisy.shape
    again = {n.name: n for n in flow.run().nodes()}
    assert all(n.is_cached()[1] for n in again.values())


def test_other_inputs_are_denoised_again_in_the_same_folder(study):
    "What the command refuses, another result under the same name, a node does not meet"
    results = []
    for width in (1.0, 3.0):
        node = Node(Denoise(in_file=study / 'noisy.nii.gz'), 'n', base_dir=str(study))
        node.inputs.trait_set(method='blur', settings=dict(width=width))
        results.append(Scan.load(node.run().outputs.out_file).data)
    assert not np.array_equal(*results)


def test_a_series_has_its_tables_and_many_scans_a_map_node(study):
    series = Denoise(in_file=study / 'series.nii.gz', method='mppca', picture=True, seed=3)
    out = series.run(cwd=study).outputs
    assert np.loadtxt(out.out_bval).size == Scan.load(out.out_file).shape[3]
    assert np.loadtxt(out.out_bvec).shape[0] == 3 and out.picture.endswith('series_picture.png')
    scans = [str(study / n) for n in ('noisy.nii.gz', 'clean.nii.gz')]
    many = MapNode(Denoise(method='blur'), 'in_file', name='many', base_dir=str(study))
    many.inputs.in_file = scans
    assert len(set(many.run().outputs.out_file)) == 2


def test_every_input_becomes_its_option(study):
    f, m = study / 'noisy.nii.gz', study / 'mask.nii.gz'
    node = Denoise(in_file=f, out_file='o.nii.gz', mask=m, sigma=0.1, preset='tiny', seed=2)
    node.inputs.trait_set(settings={'probes': 2, 'copies': 1}, device='cpu', force=True, coils=4)
    node.inputs.trait_set(report='my page.html', std=True, residual=False, bias_field='keep')
    line = node.cmdline
    assert line.startswith('mri-diffusion denoise ') and "'my page.html'" in line
    for part in ('--sigma 0.1', '--preset tiny', '--seed 2', '--set probes=2', '--set copies=1'):
        assert part in line
    assert '--std noisy_std.nii.gz' in line and '--residual' not in line and ' --force' in line
    assert '--coils 4' in line and '--mask ' in line and '--bias-field keep' in line


@pytest.mark.parametrize('terminal', ['stream', 'allatonce', 'file', 'file_split', 'none'])
def test_the_line_of_the_command_is_the_error(study, terminal):
    (study / 'noisy_denoised.nii.gz').write_bytes(b'of an earlier run')
    node = Denoise(in_file=study / 'noisy.nii.gz', method='blur', terminal_output=terminal)
    with pytest.raises(RuntimeError, match=r'exists; use --force.*\[exit code 2\]') as e:
        node.run(cwd=study)
    assert '\n' not in str(e.value.args[0])
    assert (study / 'noisy_denoised.nii.gz').read_bytes() == b'of an earlier run'


def test_a_node_fails_with_that_line_and_leaves_no_result(study):
    node = Node(Denoise(in_file=study / 'noisy.nii.gz', method='mppca'), 'n', base_dir=str(study))
    with pytest.raises(Exception, match='mri-diffusion: error: mppca: scan of shape'):
        node.run()
    assert not list((study / 'n').glob('*.nii*'))


def test_numbers_count_with_all_their_digits():
    tiny = [Denoise(sigma=v).inputs.get_hashval()[1] for v in (1e-11, 4e-11, 4e-11)]
    assert tiny[0] != tiny[1] == tiny[2]


def test_inputs_are_typed(study):
    with pytest.raises(Exception, match='sigma'):
        Denoise(sigma='much')
    with pytest.raises(Exception, match='in_file'):
        Denoise(in_file='nowhere.nii.gz')
    with pytest.raises(Exception, match='preset'):
        Denoise(preset='huge')
    with pytest.raises(ValueError, match='in_file'):
        Denoise(method='blur').run(cwd=study)


def test_the_library_is_imported_without_nipype():
    code = 'import sys, mri_diffusion, mri_diffusion.app.cli as c; c.main(["methods"]); '
    code += 'assert "nipype" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_a_missing_nipype_names_the_extra():
    code = 'import sys; sys.modules["nipype"] = None; import mri_diffusion.app.nipype_interface'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert "pip install 'mri_diffusion[nipype]'" in run.stderr.splitlines()[-1]
