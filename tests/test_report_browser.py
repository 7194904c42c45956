"The page of a report in a real browser: flip, zoom and keys, light, dark, narrow and on paper"

import numpy as np
import pytest
from test_browser import chromium  # noqa: F401

from mri_diffusion.app.result import Result
from mri_diffusion.core import generator
from mri_diffusion.judge.report import write_report
from mri_diffusion.noise.models import add_noise
from mri_diffusion.phantoms.heads import load_t1

VIEWER = '#viewer'


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "A report about two volumes of a head"
    head, folder = load_t1(downsample=4), tmp_path_factory.mktemp('report')
    clean = np.stack([head.data, 0.5 * head.data], -1)
    noisy = np.asarray(add_noise(clean, 0.06, gen=generator(0)), np.float32)
    scan = type(head).from_array(noisy, head.affine, mask=head.mask)
    denoised = scan.with_data((0.8 * clean + 0.2 * noisy).astype(np.float32))
    meta = dict(method='<script>document.title = "run"</script>')
    return write_report(Result(denoised, scan, 0.06, None, meta), folder / 'qa.html')


@pytest.fixture
def opened(chromium, report):  # noqa: F811
    "`opened(**context)`: the page, with every request and complaint it made in `.asked`"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu']
        )

        def open_page(**context):
            page = browser.new_context(**context).new_page()
            page.asked = []
            page.on('request', lambda r: page.asked.append(r.url[:60]))
            page.on('console', lambda m: page.asked.append(m.text))
            page.on('pageerror', lambda e: page.asked.append(str(e)))
            page.goto(report.as_uri())
            return page

        try:
            yield open_page
        finally:
            browser.close()


def shown(page):
    "What the viewer says, the picture on its stage, and its width"
    return page.evaluate(
        """() => {
            const v = document.getElementById('viewer'), i = v.querySelector('.frame img');
            return [v.querySelector('.said').textContent, i.src, i.getBoundingClientRect().width];
        }"""
    )


def picture(page, name, figure=0):
    "The picture of that name below the viewer"
    cell = page.locator('figure.planes').nth(figure).locator('.cell', has_text=name).first
    return cell.locator('img').get_attribute('src')


@pytest.mark.browser
def test_flip_and_zoom_by_keys(opened):
    page = opened(viewport=dict(width=1200, height=900))
    page.locator(VIEWER).focus()
    said, src, width = shown(page)
    assert said.startswith('denoised, volume 0, axial, ') and said.endswith('100 %')
    assert src == picture(page, 'denoised') != picture(page, 'noisy')
    page.keyboard.press('Space')
    assert shown(page)[1] == picture(page, 'noisy') and shown(page)[0].startswith('noisy')
    page.keyboard.press('ArrowUp')
    page.keyboard.press('ArrowUp')
    assert shown(page)[2] == pytest.approx(2 * width, rel=0.01) and '200 %' in shown(page)[0]
    page.keyboard.press('Shift+ArrowRight')
    page.keyboard.press('Space')
    assert '200 %' in shown(page)[0] and shown(page)[1] == picture(page, 'denoised')
    page.keyboard.press('0')
    assert shown(page)[2] == pytest.approx(width, rel=0.01)
    page.keyboard.press('r')
    assert shown(page)[1] == picture(page, 'residual')
    page.keyboard.press('ArrowRight')
    assert 'coronal' in shown(page)[0] and shown(page)[1] == picture(page, 'residual', 1)
    page.keyboard.press('ArrowLeft')
    page.keyboard.press('ArrowLeft')
    assert shown(page)[0].startswith('residual, volume 1, sagittal')


@pytest.mark.browser
def test_buttons_have_names_and_answer_to_mouse_and_keyboard(opened):
    page = opened(viewport=dict(width=1200, height=900))
    for name in ('Flip', 'Previous', 'Next', 'Smaller', 'Larger', 'Whole'):
        assert page.get_by_role('button', name=name).count() == 1, name
    page.get_by_role('button', name='Flip').click()
    assert shown(page)[0].startswith('noisy')
    page.keyboard.press('Space')
    assert shown(page)[0].startswith('denoised'), 'space flips after a click'
    page.get_by_role('button', name='Larger').focus()
    page.keyboard.press('Space')
    assert '150 %' in shown(page)[0], 'space presses the button that has the focus'
    page.get_by_role('button', name='residual').click()
    pressed = page.locator(f'{VIEWER} [aria-pressed=true]')
    assert pressed.all_inner_texts() == ['residual']
    page.locator('figure.planes').nth(4).locator('.cell', has_text='noisy').click()
    assert shown(page)[0].startswith('noisy, volume 1, coronal')


@pytest.mark.browser
def test_nothing_is_loaded_and_no_script_but_its_own_runs(opened):
    page = opened()
    page.wait_for_selector(f'{VIEWER}:visible')
    own = [a for a in page.asked if not a.startswith(('file:', 'data:image/png'))]
    assert own == [] and page.title().startswith('Denoised')
    page.evaluate(
        "() => { const s = document.createElement('script');"
        " s.textContent = 'window.smuggled = 1'; document.body.append(s); }"
    )
    assert page.evaluate('window.smuggled') is None


@pytest.mark.browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [400, 1200])
def test_nothing_is_cut_off(opened, scheme, width):
    page = opened(viewport=dict(width=width, height=800), color_scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    ink, paper = page.evaluate(
        '() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }'
    )
    light = [sum(map(int, c[4:-1].split(','))) for c in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == 'light') and abs(light[0] - light[1]) > 400
    sharp = page.locator('.frame img').evaluate('(i) => getComputedStyle(i).imageRendering')
    assert sharp == 'pixelated'


@pytest.mark.browser
def test_on_paper_it_is_light_and_whole(opened):
    page = opened(color_scheme='dark')
    page.emulate_media(media='print')
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator(VIEWER).is_visible()
    assert page.locator('#findings').is_visible(), 'details are open on paper'
    assert page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert page.locator('figure.planes img').first.is_visible()


@pytest.mark.browser
def test_without_script_the_page_is_whole(opened):
    page = opened(java_script_enabled=False)
    assert not page.locator(VIEWER).is_visible()
    assert page.locator('figure.planes img').count() == 18
