"The report's answer without a browser: one noise level, doubt where estimators disagree, positions"

import re
from html import unescape

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mri_diffusion.app.denoiser import Denoiser
from mri_diffusion.app.jobs import denoise_scan, scan_noise, simulate_scan
from mri_diffusion.app.result import Result
from mri_diffusion.core import generator
from mri_diffusion.judge.report import ReportFacts, judge_result, write_report
from mri_diffusion.judge.use import answer_line, disagreement, noise_shown, uses_of
from mri_diffusion.noise.models import add_noise, rician_mean
from mri_diffusion.phantoms.heads import load_t1
from mri_diffusion.scans.nifti import Scan

SIGMA = 0.035


@pytest.fixture(scope='module')
def head():
    return load_t1(downsample=3)


def noisy_of(head, kind='rician', coils=1, correlation=0.0):
    how = kind, coils, correlation, generator(0), head.voxel_size
    x = add_noise(head.data, SIGMA, *how)
    return head.with_data(np.asarray(x, np.float32))


def result_of(head, noisy, denoised, sigma, **meta):
    return Result(noisy.with_data(np.asarray(denoised, np.float32)), noisy, sigma, None, meta)


def nearly_clean(head, noisy):
    return head.data + 0.1 * (noisy.data - rician_mean(head.data, SIGMA))


def words(page):
    return unescape(re.sub(r'<.*?>', '', page)).replace('  ', ' ')


def answer_of(page):
    return words(re.search(r'<h1.*?</h1>', page)[0])


def test_noise_and_report_say_one_level_and_one_number_of_coils(head, tmp_path):
    "Five coils: what the command noise prints is what the report used, states and judges by"
    head.save(tmp_path / 'clean.nii.gz')
    scan = tmp_path / 'noisy.nii.gz'
    simulate_scan(tmp_path / 'clean.nii.gz', scan, 'ncchi', sigma=SIGMA, coils=5)
    found = scan_noise(scan)
    page = tmp_path / 'qa.html'
    result = denoise_scan(scan, tmp_path / 'out.nii.gz', 'blur', report=page)
    assert found['n_coils'] == 5 and abs(found['sigma'] / SIGMA - 1) < 0.05
    assert result.level == pytest.approx(found['sigma'], rel=1e-6)
    said = words(page.read_text())
    assert f'{found["sigma"]:.4g}' in re.search(r'sigma = (\S+)', said)[1]
    levels = re.search(r'<table class="facts" id="levels">.*?</table>', page.read_text())[0]
    numbers = re.findall(r'<td class="number">(.*?)</td>', levels)
    assert numbers[0] == numbers[1] == f'{found["sigma"]:.4g}'
    assert 'judged as 5' in said and 'that of 5 coils' in said


@pytest.mark.parametrize('coils', [1, 5, 16])
def test_where_estimators_agree_a_good_result_passes(head, coils):
    noisy = noisy_of(head, 'ncchi' if coils > 1 else 'rician', coils)
    shown = noise_shown(noisy)
    result = result_of(head, noisy, head.data, shown['sigma'], sigma_from='estimated from the scan')
    found = judge_result(result)
    assert shown['n_coils'] == coils and found.verdict == 'no fault found', found.reasons
    assert set(uses_of(found).values()) == {'yes'} and answer_line(found).startswith('Yes')


def test_no_verdict_without_fault_while_estimators_disagree(head, tmp_path):
    noisy = noisy_of(head, correlation=(4.0, 4.0, 0.0))  # within slices
    shown = noise_shown(noisy)
    denoised = nearly_clean(head, noisy)
    result = result_of(head, noisy, denoised, shown['sigma'], sigma_from='estimated from the scan')
    found = judge_result(result)
    assert found.verdict == 'look' and 'disagree by a factor of' in found.reasons[0], found
    assert all(f'{v:.4g}' in found.reasons[0] for v in shown['by_estimator'].values())
    page = write_report(result, tmp_path / 'qa.html').read_text()
    assert 'No fault found' not in page and 'disagree' in page
    assert answer_of(page).startswith('May I use this denoised scan? !With care')
    measured = result_of(head, noisy, denoised, shown['sigma'], sigma_from='noise scan air.nii')
    assert judge_result(measured).verdict == 'no fault found'


def test_a_given_level_far_from_what_the_scan_shows(head):
    "A level three times too high hides a smoothing; the report does not take it"
    noisy = noisy_of(head)
    smoothed = gaussian_filter(noisy.data, 0.4)
    told = result_of(head, noisy, smoothed, 3 * SIGMA, sigma_from='given by the caller')
    found = judge_result(told)
    assert found.verdict != 'no fault found' and found.doubt
    assert re.search('a factor of 3.0.*the verdict would be: do not trust', found.doubt)
    assert uses_of(found)['values'] == 'no'
    right = result_of(head, noisy, nearly_clean(head, noisy), SIGMA)
    assert judge_result(right).verdict == 'no fault found' and not judge_result(right).doubt


def test_a_background_of_more_coils_than_the_object_bears_out(head):
    "A magnitude whose background looks like several coils, though sigma was taken for one"
    shown = dict(sigma=12.64, low=4.8, high=15.4, how='background', n_coils=1)
    by = {'wavelet': 8.0, 'background': 12.64, 'background as 5 coils': 12.64 / 5**0.5}
    said = disagreement(12.64, shown | dict(by_estimator=by))
    assert 'factor of 2.2' in said and 'background as 5 coils 5.653' in said


def test_the_first_line_is_the_answer(head, tmp_path):
    noisy = noisy_of(head)
    for name, denoised, sigma, first in (
        ('good', nearly_clean(head, noisy), SIGMA, 'Yes, beside the noisy scan'),
        ('smooth', gaussian_filter(noisy.data, 1.0), SIGMA, 'No. Use the noisy scan.'),
        ('same', noisy.data, SIGMA, 'It is the noisy scan: nothing was removed.'),
        ('unknown', nearly_clean(head, noisy), None, 'Not known'),
    ):
        path = tmp_path / f'{name}.html'
        page = write_report(result_of(head, noisy, denoised, sigma), path).read_text()
        body = page[page.index('<body>') :]
        assert words(body).strip().startswith('May I use this denoised scan?'), name
        assert first in answer_of(page), (name, answer_of(page))


def test_positions_in_mm_do_not_depend_on_how_the_file_is_stored(head, tmp_path):
    captions = {}
    for codes in ('RAS', 'LPS', 'PSR'):
        image = nib.Nifti1Image(head.data, head.affine)
        to = nib.orientations.axcodes2ornt(codes)
        turn = nib.orientations.ornt_transform(nib.io_orientation(head.affine), to)
        image = image.as_reoriented(turn)
        scan = Scan(np.asarray(image.dataobj), image.affine)
        facts = ReportFacts(result_of(head, scan, 0.9 * scan.data, None))
        page = write_report(facts.result, tmp_path / f'{codes}.html').read_text()
        found = re.findall(r'<figcaption>(.*?)</figcaption>', page)
        captions[codes] = [re.sub(r' \(slice.*', '', c) for c in found]
    assert re.fullmatch(r'axial, [SI] \d+\.\d mm', captions['RAS'][0])
    assert len({tuple(c) for c in captions.values()}) == 1
    array = result_of(head, Scan.from_array(head.data), 0.9 * head.data, None)
    page = write_report(array, tmp_path / 'array.html').read_text()
    assert re.findall(r'<figcaption>(.*?)</figcaption>', page)[0].startswith('across axis z')


def test_one_number_of_a_map_is_that_of_the_object(head):
    "Low noise in the air does not lower the level that is stated"
    noisy = noisy_of(head)
    level = np.where(noisy.foreground(), 2.0, 1.0)
    result = result_of(head, noisy, head.data, level)
    assert result.level == 2.0
    assert Denoiser('nlmeans').denoise(noisy, level).level == 2.0
