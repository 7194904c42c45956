"A live notebook in a real browser: the first tutorial's slider must move its picture"

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Tutorials with sliders, and how many
SLIDERS = {'nbs/tutorials/01_scanner.ipynb': 1, 'nbs/tutorials/02_noise.ipynb': 3}


def find_browser():
    "Debian's chromium or whatever CHROMIUM names; None where there is none"
    names = os.environ.get('CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome'
    return next((shutil.which(n) for n in names if n and shutil.which(n)), None)


@pytest.fixture(scope='module')
def chromium():
    pytest.importorskip(
        'playwright.sync_api', reason="playwright is not installed (pip install -e '.[dev]')"
    )
    path = find_browser()
    if not path:
        pytest.skip('no chromium on this machine (apt install chromium, or set CHROMIUM)')
    return path


@pytest.fixture(scope='module')
def lab(chromium, tmp_path_factory):
    "(url, token, folder) of a jupyter lab on a free port of the loopback, over copies of tutorials"
    pytest.importorskip('jupyterlab', reason='jupyterlab is not installed')
    tmp_path = tmp_path_factory.mktemp('lab')
    for notebook in SLIDERS:
        copy = tmp_path / 'work' / notebook
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / notebook, copy)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        COLD_PYTHON='1',  # a kernel as a student starts it
        IPYTHONDIR=str(tmp_path / 'ipython'),
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        **{
            f'JUPYTER_{k}': str(tmp_path / k.lower())
            for k in ('CONFIG_DIR', 'DATA_DIR', 'RUNTIME_DIR')
        },
        JUPYTERLAB_SETTINGS_DIR=str(tmp_path / 'settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(tmp_path / 'workspaces'),
    )
    settings = tmp_path / 'settings' / '@jupyterlab' / 'apputils-extension'
    settings.mkdir(parents=True)
    (settings / 'notification.jupyterlab-settings').write_text(
        json.dumps(dict(fetchNews='false', checkForUpdates=False))
    )
    command = [
        *(sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root'),
        '--ServerApp.ip=127.0.0.1',
        f'--ServerApp.port={port}',
        '--ServerApp.port_retries=0',
        f'--IdentityProvider.token={token}',
        '--LabApp.expose_app_in_browser=True',
        f'--ServerApp.root_dir={tmp_path / "work"}',
    ]
    with open(tmp_path / 'lab.log', 'w') as log:
        server = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path
        )
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f'{url}/api/status?token={token}', timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        assert server.poll() is None, (tmp_path / 'lab.log').read_text()[-2000:]
        yield url, token, tmp_path / 'work'
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
        try:
            server.wait(2)
        except subprocess.TimeoutExpired:
            server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


IDLE = """() => {
    const w = window.jupyterapp?.shell.currentWidget;
    const k = w?.sessionContext?.session?.kernel;
    return !!k && k.status === 'idle' && w.content.widgets.length > 3;
}"""
PICTURE = '.widget-vbox img, .jupyter-widgets.widget-output img'
ERROR = '[data-mime-type="application/vnd.jupyter.error"]'


def move(page, k):
    "Move slider `k` to the right; what it says and the picture must change"
    slider, readout = (page.locator(f'.widget-{n}').nth(k) for n in ('slider', 'readout'))
    slider.scroll_into_view_if_needed()
    picture = page.locator(PICTURE).first
    picture.wait_for()
    before, said = picture.get_attribute('src'), readout.inner_text()
    handle = slider.locator('.noUi-handle').first
    handle.focus()
    for _ in range(4):
        handle.press('ArrowRight')
    page.wait_for_function(
        """([picture, old]) => {
            const i = document.querySelector(picture);
            return i && i.src && i.src !== old;
        }""",
        arg=[PICTURE, before],
    )
    page.wait_for_function(IDLE)
    assert float(readout.inner_text()) > float(said)


@pytest.mark.browser
@pytest.mark.parametrize('notebook', SLIDERS, ids=lambda p: Path(p).stem)
def test_every_slider_moves_the_picture(chromium, lab, notebook):
    from playwright.sync_api import sync_playwright

    url, token, _ = lab
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu']
        )
        try:
            page = browser.new_page(viewport=dict(width=1400, height=1600))
            page.set_default_timeout(120_000)
            page.goto(f'{url}/doc/tree/{notebook}?token={token}')
            page.wait_for_function(IDLE)
            page.evaluate(
                "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }"
            )
            page.wait_for_function(IDLE)
            assert page.locator(ERROR).count() == 0, page.locator(ERROR).first.inner_text()
            page.locator('.widget-slider').first.scroll_into_view_if_needed()
            assert page.locator('.widget-slider').count() == SLIDERS[notebook]
            for k in range(SLIDERS[notebook]):
                move(page, k)
            assert page.locator(ERROR).count() == 0
        finally:
            browser.close()


def test_every_tutorial_with_sliders_is_tried():
    pages = (ROOT / 'nbs/tutorials').glob('*.ipynb')
    having = [p for p in pages if 'widgets.' in p.read_text(encoding='utf-8')]
    assert {p.relative_to(ROOT).as_posix() for p in having} == set(SLIDERS)
