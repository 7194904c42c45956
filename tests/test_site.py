"What the site makes of a page: nothing is lost, every picture has a text, tables can be read"

import copy
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / 'tools'))
import llms  # noqa: E402
import page_seconds  # noqa: E402
import pages as page_rules  # noqa: E402
import project  # noqa: E402
import reading  # noqa: E402
import site_pages as site  # noqa: E402

CFG = dict(
    git_url='https://code.example/o/r',
    branch='main',
    doc_host='https://site.example',
    doc_baseurl='/r',
)
PNG = 'iVBORw0KGgo='


def png():
    return new_output('display_data', {'image/png': PNG, 'text/plain': '<Figure size 9x9>'})


def table(*columns, value='1'):
    "HTML as pandas writes it"
    head = ''.join(f'<th>{c}</th>' for c in ('', *columns))
    row = ''.join(f'<td>{value}</td>' for _ in columns)
    page = f'<table><thead><tr>{head}</tr></thead><tbody><tr><th>0</th>{row}</tr></tbody></table>'
    return new_output('execute_result', {'text/html': page})


def polished(*cells, here='noise/12_sigma.ipynb', seconds=None):
    "Cells of a small processed page, after the last processor"
    front = new_raw_cell('---\ntitle: A page\ndescription: What it is for.\n---\n')
    nb = new_notebook(cells=[front, new_markdown_cell('<!-- made -->'), *cells])
    site.polish(nb, here, CFG, seconds)
    return nb.cells


def option(cell, name):
    "The value of an option of Quarto, read as YAML; None without it"
    lines = [x[2:] for x in cell.source.splitlines() if x.startswith('#|')]
    return (yaml.safe_load('\n'.join(lines)) or {}).get(name)


# The notebook: openings and imports


def test_the_opening_gets_a_cell_of_its_own():
    first = '# Title\n\n> Promise.\n\n*You will see* a thing.\n\n- key: value'
    cells = [dict(cell_type='markdown', id='aaaaaaaa', metadata={}, source=[first])]
    found = reading.opened(cells)
    assert [''.join(c['source']) for c in found] == [
        '# Title\n\n> Promise.',
        '*You will see* a thing.\n\n- key: value',
    ]
    assert reading.opened(found) == found and found[0]['id'] != found[1]['id']


def test_leading_imports_get_a_cell_of_their_own():
    split = reading.leading_imports(
        '#| hide\nimport os\n\nfrom a import (\n    b,\n)\n\n# why\nx = b'
    )
    assert split == (
        '#| hide\nimport os\n\nfrom a import (\n    b,\n)',
        '#| hide\n# why\nx = b',
    )
    for whole in (
        'import os',
        'x = 1\nimport os',
        '#| export\nimport os\nx = 1',
        '%time import os',
    ):
        assert reading.leading_imports(whole) is None


def test_new_cells_keep_outputs_and_have_ids_of_their_own():
    code = dict(cell_type='code', id='bbbbbbbb', metadata={}, source=['import os\nos.sep'])
    twice = [code | dict(outputs=['one']), code | dict(id='cccccccc', outputs=['two'])]
    found = reading.imports_apart(twice)
    assert [c['outputs'] for c in found] == [[], ['one'], [], ['two']]
    assert len({c['id'] for c in found}) == 4 and all(len(c['id']) == 8 for c in found)


def test_title_imports_and_settings_do_not_count_as_ideas():
    frame = [
        ('code', '#| default_exp x'),
        ('markdown', '# Title'),
        ('code', 'import matplotlib.pyplot as plt'),
        ('code', "plt.rcParams['figure.dpi'] = 70"),
    ]
    assert page_rules.ideas([*frame, ('markdown', 'text'), ('code', 'x = 1')]) == 2


# Loss


def before_and_after(first, *rest):
    front = new_raw_cell('---\ntitle: Title\ndescription: Promise.\n---\n')
    before = new_notebook(cells=[new_markdown_cell(first), *rest])
    return before, new_notebook(cells=[front, *copy.deepcopy(rest)])


def test_a_lost_opening_is_found():
    before, after = before_and_after('# Title\n\n> Promise.\n\nThe opening paragraph.')
    assert 'The opening paragraph.' in project.text_problems('p', before, after)[0]
    whole = before_and_after('# Title\n\n> Promise.', new_markdown_cell('The opening.'))
    assert project.text_problems('p', *whole) == []


def test_linked_names_are_no_loss():
    before, after = before_and_after('# Title', new_markdown_cell('By `f`, see [x](a.ipynb).'))
    after.cells[1].source = 'By [`f`](https://site.example/f.html#f), see [x](a.html).'
    assert project.text_problems('p', before, after) == []


def test_a_lost_picture_and_one_without_a_text_are_found():
    before, after = before_and_after('# Title', new_code_cell('plot()', outputs=[png()]))
    assert 'without alt text' in ' '.join(project.picture_problems(before, after))
    after.cells[1].outputs = []
    assert '1 pictures in the notebook, 0' in ' '.join(project.picture_problems(before, after))


# Pictures


def test_a_picture_says_kind_heading_and_labels():
    code = (
        "ax.plot(x, y)\nax.set(xlabel='step', ylabel='loss $\\\\sigma$')\nax.set_title('It falls')"
    )
    cells = polished(new_markdown_cell('## The loop'), new_code_cell(code, outputs=[png()]))
    assert option(cells[-1], 'fig-alt') == 'Curves, The loop: step; loss sigma; It falls'


def test_names_of_panels_come_from_dicts_and_tuples():
    maps = "show_maps({'noisy': a, f'by {x}': b}, title='One slice')"
    loop = "shown = [('left', a), ('right', b)]\nfor ax, (t, v) in zip(axes, shown):\n    imshow(v)"
    assert site.labels(maps) == ['noisy', 'by …', 'One slice']
    assert site.labels(loop) == ['left', 'right']


def test_a_picture_without_labels_says_the_last_sentence_before_it():
    cells = polished(
        new_markdown_cell('## Shapes\n\nFirst. The noise comes last.\n'),
        new_code_cell('f()', outputs=[png()]),
    )
    assert option(cells[-1], 'fig-alt') == 'Picture, Shapes: The noise comes last.'


def test_a_text_of_the_page_stays():
    cells = polished(new_code_cell('#| fig-alt: "My own"\nf()', outputs=[png()]))
    assert option(cells[-1], 'fig-alt') == 'My own' and cells[-1].source.count('fig-alt') == 1


def test_several_pictures_get_a_text_each_in_the_order_of_outputs():
    "Quarto counts all outputs that it prints, and leaves out the name of an object"
    name = new_output('execute_result', {'text/plain': '[<matplotlib.lines.Line2D>]'})
    outputs = [name, new_output('stream', text='said'), png(), png()]
    cell = polished(new_code_cell('f()', outputs=outputs))[-1]
    said = option(cell, 'fig-alt')
    assert len(cell.outputs) == len(said) == 3
    assert said == ['', 'Picture 1 of 2, A page', 'Picture 2 of 2, A page']


def test_pictures_in_html_get_a_text_if_they_have_none():
    page = '<img src="a"><img alt="own" src="b">'
    outputs = [new_output('display_data', {'text/html': page})]
    cells = polished(new_markdown_cell('## Two "pictures"'), new_code_cell('f()', outputs=outputs))
    found = cells[-1].outputs[0].data['text/html']
    assert found == '<img alt="Picture, Two ’pictures’" src="a"><img alt="own" src="b">'


# Tables


def test_column_names_are_words_with_units():
    cell = polished(
        new_code_cell('t', outputs=[table('psnr_tissue', 'fa_error', 'unet_pca', 'b, s')])
    )[-1]
    found = cell.outputs[0].data['text/html']
    for said in (
        '<th>PSNR tissue, dB</th>',
        '<th>FA error</th>',
        '<th>unet_pca</th>',
        '<th>b, s</th>',
    ):
        assert said in found


def test_no_number_is_a_dash():
    found = polished(new_code_cell('t', outputs=[table('a', value='NaN')]))[-1].outputs[0].data
    assert '<td>–</td>' in found['text/html'] and 'NaN' not in found['text/html']


def test_only_wide_tables_get_the_width_of_the_page():
    wide, narrow = table(*[f'a long column {i}' for i in range(12)]), table('a', 'b')
    assert option(polished(new_code_cell('t', outputs=[wide]))[-1], 'column') == 'page'
    assert option(polished(new_code_cell('t', outputs=[narrow]))[-1], 'column') is None


# Code


def test_imports_and_the_settings_after_them_are_one_folded_cell():
    code = [
        new_code_cell('import a'),
        new_code_cell("plt.rcParams['x'] = 1"),
        new_code_cell('y = 1'),
    ]
    *_, imports, rest = polished(*code)
    assert imports.source.endswith("import a\n\nplt.rcParams['x'] = 1")
    assert option(imports, 'code-fold') is True and option(imports, 'code-summary') == 'Imports'
    assert rest.source == 'y = 1' and 'only_imports' not in imports


def test_the_code_of_an_experiment_is_folded_and_its_parameters_are_not():
    own = new_code_cell('seed = 0', metadata=dict(tags=['parameters']))
    *_, first, last = polished(own, new_code_cell('run()'), here='experiments/dti.ipynb')
    assert option(first, 'code-fold') is None and option(last, 'code-fold') is True


# Links, and the line at the top


def test_links_out_of_the_pages_lead_to_the_repository():
    said = '[a](../../LICENSE) [b](10_models.ipynb) [c](../docs/x.ipynb#y) [d](https://e.org)'
    found = site.mend_links(said, 'noise/12_sigma.ipynb', CFG)
    assert found == said.replace('../../LICENSE', 'https://code.example/o/r/blob/main/LICENSE')


def test_links_of_names_stay_on_the_site():
    said = '[`f`](https://site.example/r/noise/sigma.html#f)'
    assert site.mend_links(said, 'methods/a.ipynb', CFG) == '[`f`](../noise/sigma.html#f)'


def test_links_in_html_have_the_names_of_the_site():
    found = site.html_links('<a href="../methods/42_ddm2.ipynb#x">')
    assert found == '<a href="../methods/ddm2.html#x">'


def test_the_run_time_stands_at_the_top():
    line = polished(new_markdown_cell('text'), seconds=13.2)[2].source
    assert 'About 15 s on one core' in line and 'blob/main/nbs/noise/12_sigma.ipynb' in line
    assert 'one core' not in polished(new_markdown_cell('text'))[2].source


def test_every_page_has_a_run_time():
    lacking = [str(p) for p in project.notebooks() if str(p) not in page_seconds.kept()]
    assert not lacking, 'run python tools/page_seconds.py'


def test_a_run_time_holds_for_the_code_and_not_for_the_text():
    page = new_notebook(cells=[new_markdown_cell('a'), new_code_cell('#| hide\nx = 1\n\ny = 2')])
    same = new_notebook(cells=[new_code_cell('x = 1'), new_code_cell('y = 2')])
    other = new_notebook(cells=[new_code_cell('x = 1'), new_code_cell('y = 3')])
    assert page_seconds.fingerprint(page) == page_seconds.fingerprint(same)
    assert page_seconds.fingerprint(page) != page_seconds.fingerprint(other)


# The whole


def test_nbdev_knows_the_names_of_the_library():
    "The entry point that links names; without it no signature has a source link"
    found = {e.name: e.value for e in entry_points(group='nbdev')}
    assert found.get('mri_diffusion') == 'mri_diffusion._modidx:d'


@pytest.fixture(scope='module')
def small_site(tmp_path_factory):
    "A processed reference page, as the docs check makes it"
    base = project.copy_to(tmp_path_factory.mktemp('site'))
    code = (
        'import sys; from pathlib import Path; from project import process; '
        "print(*process(Path('nbs/noise/10_rician_bias.ipynb')), sep='\\n')"
    )
    env = dict(PYTHONPATH=f'{base}/tools:{base}')
    run = subprocess.run(
        [sys.executable, '-c', code],
        cwd=base,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip(), nbformat.read(base / '_proc/noise/10_rician_bias.ipynb', 4)


def test_a_page_of_the_library_comes_through(small_site):
    problems, nb = small_site
    assert problems == ''
    shown = '\n'.join(str(o.get('data', '')) for c in nb.cells for o in c.get('outputs', []))
    assert '[source](https://github.com/mri-diffusion/mri_diffusion/blob/main/' in shown
    text = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    page = project.notebooks()[Path('noise/10_rician_bias.ipynb')]
    opening = [c.source for c in page.cells if c.cell_type == 'markdown'][1]
    assert project.words(opening) in project.words(text) and 'github.io' not in text


def test_the_bar_has_four_doors():
    bar = yaml.safe_load((root / 'nbs/_quarto.yml').read_text())['website']['navbar']['left']
    assert [e['text'] for e in bar] == ['Course', 'How-to', 'Reference', 'Results']
    assert 'code-overflow: wrap' in (root / 'nbs/_quarto.yml').read_text()


def test_llms_txt_names_every_page_once():
    text = llms.llms()
    assert text.startswith('# mri_diffusion\n\n> ')
    lines = [x for x in text.splitlines() if x.startswith('- [')]
    there = [p for p in project.sidebar_targets() if (root / 'nbs' / p).is_file()]
    assert len(lines) == len(set(lines)) == len(there) and not any(
        x.endswith('None') for x in lines
    )


def test_the_gallery_shows_every_method():
    from mri_diffusion.methods.registry import methods

    nb = nbformat.read(root / 'nbs/docs/gallery.ipynb', 4)
    shown = ''.join(
        o.get('data', {}).get('text/html', '') for c in nb.cells for o in c.get('outputs', [])
    )
    assert all(f'alt="{name}: denoised slice' in shown for name in methods())
