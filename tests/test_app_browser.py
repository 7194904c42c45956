"The start page of `make lab` and the app that denoises a scan, in a real browser"

import re
import shutil

import pytest
from test_browser import ERROR, IDLE, ROOT, chromium, lab  # noqa: F401

APP = 'nbs/howto/app.ipynb'


def start_page():
    "Where `make lab` takes the browser, by the Makefile"
    said = (ROOT / 'Makefile').read_text()
    return re.search(r'jupyter lab --notebook-dir=nbs --LabApp.default_url=/lab/tree/(\S+)', said)[
        1
    ]


def test_make_lab_opens_a_page_that_links_to_pages_that_exist():
    import nbformat

    page = ROOT / 'nbs' / start_page()
    outputs = [o for c in nbformat.read(page, 4).cells for o in c.get('outputs', [])]
    text = '\n'.join(o.data.get('text/markdown', '') for o in outputs if 'data' in o)
    links = re.findall(r'\]\((.*?)\)', text)
    assert 'howto/app.ipynb' in links and len(links) > 5
    assert all((page.parent / link).is_file() for link in links)
    assert any('image/png' in o.data for o in outputs if 'data' in o), 'the map of the course'


@pytest.fixture
def run(chromium, lab):  # noqa: F811
    "`run(notebook file)`: the page of a notebook that was opened in the lab and run"
    from playwright.sync_api import sync_playwright

    url, token, work = lab
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu']
        )

        def open_and_run(path):
            shutil.copy(path, work / path.name)
            page = browser.new_page(viewport=dict(width=1500, height=1800))
            page.set_default_timeout(120_000)
            page.goto(f'{url}/doc/tree/{path.name}?token={token}')
            page.wait_for_function(IDLE)
            page.evaluate(
                "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }"
            )
            page.wait_for_function(IDLE)
            assert page.locator(ERROR).count() == 0, page.locator(ERROR).first.inner_text()
            return page

        try:
            yield open_and_run
        finally:
            browser.close()


@pytest.mark.browser
def test_the_app_denoises_moves_and_saves(run, lab):  # noqa: F811
    page = run(ROOT / APP)
    box = page.locator('.widget-vbox').first
    box.scroll_into_view_if_needed()
    images = box.locator('.mri-app img')
    images.first.wait_for()
    assert images.count() == 3
    sharp = images.first.evaluate(
        """(i) => { const r = i.getBoundingClientRect();
        return [getComputedStyle(i).imageRendering, r.width / i.naturalWidth,
        r.height / i.naturalHeight]; }"""
    )
    assert sharp[0] == 'pixelated' and sharp[1] == sharp[2] == round(sharp[1]), sharp
    box.locator('select').first.select_option('blur')
    box.locator('button', has_text='Denoise').click()
    page.wait_for_function(
        "() => document.querySelector('.widget-vbox').querySelectorAll('.mri-app img').length === 9"
    )
    page.wait_for_function(IDLE)
    assert 'No. Use the noisy scan.' in box.inner_text() and 'do not trust' in box.inner_text()
    before = images.first.get_attribute('src')
    handle = box.locator('.widget-slider', has_text='foot-head').locator('.noUi-handle')
    handle.focus()
    for _ in range(4):
        handle.press('ArrowRight')
    page.wait_for_function(
        "([old]) => document.querySelector('.widget-vbox .mri-app img').src !== old", arg=[before]
    )
    box.locator('button', has_text='Save').click()
    box.get_by_text('written: denoised.nii.gz, denoised.html').wait_for()
    written = {p.name for p in lab[2].iterdir()}
    assert {'denoised.nii.gz', 'denoised.json', 'denoised.html'} <= written
    box.locator('button', has_text='Save').click()
    box.get_by_text('Not done:').wait_for()
    assert page.locator(ERROR).count() == 0


@pytest.mark.browser
def test_a_slice_under_sliders_is_shown_at_its_own_size(run, tmp_path):
    code = (
        'from mri_diffusion.phantoms.heads import load_t1\n'
        'from mri_diffusion.viz import explore_slices\n'
        'explore_slices(load_t1(downsample=4).data)'
    )
    page = run(notebook_of(code, tmp_path / 'slices.ipynb'))
    page.wait_for_function("() => document.querySelector('.widget-vbox img')?.naturalWidth > 0")
    picture = page.locator('.widget-vbox img').first
    shown, own = picture.evaluate('(i) => [i.getBoundingClientRect().width, i.naturalWidth]')
    assert shown == own and 200 < own < 600


# A scan whose grey values are the numbers of its voxels, stored with its axes permuted and flipped
CODED = """import numpy as np
from mri_diffusion.app.explorer import explore_scan
from mri_diffusion.scans.nifti import Scan
numbers = np.arange(5.0 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
affine = np.array([[0, -2.0, 0, 9], [0, 0, -3, 10], [2.5, 0, 0, -4], [0, 0, 0, 1]])
app = explore_scan(Scan.from_array(numbers, affine))
app.controls['window'].value = 0, 209
app"""

# [grey value under the middle of the cross-hair, caption] of each plane
UNDER = """() => [...document.querySelectorAll('.mri-app tr[data-axis]')].map((row) => {
    const c = row.querySelector('.c'), image = c.querySelector('img');
    const share = (line, side) => parseFloat(c.querySelector(line).style[side]) / 100;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext('2d').drawImage(image, 0, 0);
    const x = Math.floor(share('.v', 'left') * canvas.width);
    const y = Math.floor(share('.h', 'top') * canvas.height);
    const grey = canvas.getContext('2d').getImageData(x, y, 1, 1).data[0];
    return [Math.round(grey * 209 / 255), row.nextSibling.innerText];
})"""


def notebook_of(code, path):
    "Write a notebook of one cell of code"
    import nbformat

    cells = [nbformat.v4.new_code_cell(code)] + [nbformat.v4.new_markdown_cell('.')] * 4
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def click_at(page, row, left, top):
    "Click in the picture of a plane, at shares of its width and height; wait for the new pictures"
    picture = page.locator('.mri-app tr[data-axis]').nth(row).locator('.c').first
    picture.scroll_into_view_if_needed()
    box, before = picture.bounding_box(), page.locator('.mri-app').inner_html()
    page.mouse.click(box['x'] + left * box['width'], box['y'] + top * box['height'])
    page.wait_for_function(
        "([old]) => document.querySelector('.mri-app').innerHTML !== old", arg=[before]
    )
    page.wait_for_function(IDLE)


@pytest.mark.browser
def test_a_click_in_a_picture_moves_the_cross_hair_there(run, tmp_path):
    pytest.importorskip('anywidget', reason="pip install 'mri_diffusion[viewer]' brings it")
    import numpy as np

    page = run(notebook_of(CODED, tmp_path / 'coded.ipynb'))
    page.locator('.mri-app img').nth(2).wait_for()
    stored = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    upright = stored.transpose(1, 2, 0)[:, ::-1]  # x to the left, y to the front, z up
    n, at = upright.shape, [k // 2 for k in upright.shape]
    # plane, across and up axes, clicked column and row, voxel; right is on the left, but in a
    # sagittal picture front is
    clicks = (0, 2, 0, 1, 1, 5), (1, 1, 0, 2, 4, 3), (2, 0, 1, 2, 1, 0), (0, 2, 0, 1, 4, 2)
    for row, axis, across, up, column, line in clicks:
        click_at(page, row, (column + 0.5) / n[across], (line + 0.5) / n[up])
        at[across] = column if axis else n[across] - 1 - column
        at[up] = n[up] - 1 - line
        under = page.evaluate(UNDER)
        assert [grey for grey, _ in under] == [upright[tuple(at)]] * 3, (at, under)
        sliders = page.locator('.widget-slider:visible .widget-readout').all_inner_texts()
        assert [int(s) for s in sliders[1:4]] == at, sliders
        x, y, z = 9 - 2 * at[0], 3 * at[1] - 8, 2.5 * at[2] - 4  # mm
        for (_, said), value, sides in zip(under, (z, y, x), ('IS', 'PA', 'LR')):
            assert f', {sides[value > 0]} {abs(value):.1f} mm' in said, (at, said)
    assert page.locator(ERROR).count() == 0


def test_without_anywidget_there_are_only_sliders(monkeypatch):
    import sys

    import ipywidgets

    from mri_diffusion.app.explorer import explore_scan, voxel_under

    monkeypatch.setitem(sys.modules, 'anywidget', None)
    box = explore_scan('phantom')
    c, x = box.controls, box.explorer
    assert type(c['pictures']) is ipywidgets.HTML and c['pictures'].value.count('<img') == 3
    c['y'].value += 5
    assert x.at[1] == c['y'].value and voxel_under(x, 2, 0.5, 0.5) == [32, 38, x.at[2]]
    assert c['pictures'].value.count('<img') == 3
