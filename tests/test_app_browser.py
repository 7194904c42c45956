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
def run(chromium, lab, tmp_path):  # noqa: F811
    "`run(notebook file)`: the page of a notebook that was opened in the lab and run"
    from playwright.sync_api import sync_playwright

    url, token = lab
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu']
        )

        def open_and_run(path):
            shutil.copy(path, tmp_path / 'work' / path.name)
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
def test_the_app_denoises_moves_and_saves(run, tmp_path):
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
    written = {p.name for p in (tmp_path / 'work').iterdir()}
    assert {'denoised.nii.gz', 'denoised.json', 'denoised.html'} <= written
    box.locator('button', has_text='Save').click()
    box.get_by_text('Not done:').wait_for()
    assert page.locator(ERROR).count() == 0


@pytest.mark.browser
def test_a_slice_under_sliders_is_shown_at_its_own_size(run, tmp_path):
    import nbformat

    code = (
        'from mri_diffusion.phantoms.heads import load_t1\n'
        'from mri_diffusion.viz import explore_slices\n'
        'explore_slices(load_t1(downsample=4).data)'
    )
    cells = [nbformat.v4.new_code_cell(code)] + [nbformat.v4.new_markdown_cell('.')] * 4
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    made = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(made, tmp_path / 'slices.ipynb')
    page = run(tmp_path / 'slices.ipynb')
    page.wait_for_function("() => document.querySelector('.widget-vbox img')?.naturalWidth > 0")
    picture = page.locator('.widget-vbox img').first
    shown, own = picture.evaluate('(i) => [i.getBoundingClientRect().width, i.naturalWidth]')
    assert shown == own and 200 < own < 600
