"What holds for the whole project: form, order, generated files, and that it can be installed"

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from statistics import median

import pytest
import yaml

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / 'tools'))
import check_docs  # noqa: E402
import headline  # noqa: E402
import measure  # noqa: E402
import methods as methods_table  # noqa: E402
import pages as page_rules  # noqa: E402
import project  # noqa: E402
import reading  # noqa: E402
import readme  # noqa: E402

pages = project.notebooks()
experiments = {p: nb for p, nb in pages.items() if p.parts[0] == 'experiments'}
package = root / 'mri_diffusion'
modules = sorted(package.rglob('*.py'))


def dotted(path):
    "`noise.sigma` for mri_diffusion/noise/sigma.py"
    return '.'.join(path.relative_to(package).with_suffix('').parts)


text = {dotted(p): p.read_text(encoding='utf-8') for p in modules if not p.stem.startswith('_')}
code = {name: ast.parse(source) for name, source in text.items()}
ROOMS = ('scans', 'phantoms', 'noise', 'nets', 'learn', 'methods', 'judge', 'app', 'course')


def imported(module):
    "Modules of this library that a module imports, at the top or inside a function"
    here, found = ('mri_diffusion', *module.split('.')), set()
    for n in ast.walk(code[module]):
        if isinstance(n, ast.Import):
            found |= {a.name for a in n.names}
        if not isinstance(n, ast.ImportFrom):
            continue
        base = '.'.join(
            [*here[: len(here) - n.level] * bool(n.level), *([n.module] if n.module else [])]
        )
        found |= {base} | {f'{base}.{a.name}' for a in n.names}
    return {f.removeprefix('mri_diffusion.') for f in found} & code.keys()


def test_readme_is_not_stale():
    assert not readme.stale(), 'run make readme'


def test_the_table_of_the_index_page_is_that_of_the_results():
    assert not headline.stale(), 'run tools/headline.py and make readme'


def test_every_experiment_has_one_parameters_cell():
    assert experiments
    for path, nb in experiments.items():
        tagged = [c for c in nb.cells if 'parameters' in c.metadata.get('tags', [])]
        assert len(tagged) == 1, path
        assert any(
            line.split('#')[0].replace(' ', '') == 'out=None'
            for line in tagged[0].source.splitlines()
        ), f'{path}: out = None is missing'


def test_experiments_parameters_can_be_read():
    from mri_diffusion.app.experiments import experiment_parameters, list_experiments

    assert set(list_experiments()) == {p.stem for p in experiments}
    for name in list_experiments():
        assert all(help for _, help in experiment_parameters(name).values()), (
            f'{name}: a parameter has no comment'
        )


def bodies(tree):
    "(function name, lines of its body without docstring)"
    return [(f.name, measure.body_lines(f)) for f in measure.functions(tree)]


@pytest.mark.parametrize('module', code)
def test_functions_are_short(module):
    assert not [f'{name}: {n} lines' for name, n in bodies(code[module]) if n > 40]


def test_half_of_all_functions_have_at_most_8_lines():
    assert median(n for tree in code.values() for _, n in bodies(tree)) <= 8


def test_lines_are_narrow():
    "No line of a module over 120 characters, fewer than 1 in 100 over 100"
    lines = {
        f'{name}.py:{i}': len(line)
        for name, source in text.items()
        for i, line in measure.module_lines(source).items()
    }
    wide = {at: n for at, n in lines.items() if n > 100}
    assert not [f'{at}: {n} characters' for at, n in wide.items() if n > 120]
    assert len(wide) < 0.01 * len(lines), wide


@pytest.mark.parametrize('module', code)
def test_what_is_public_is_annotated(module):
    lacking = {f.name: measure.unannotated(f) for f in measure.public_functions(code[module])}
    assert not {name: what for name, what in lacking.items() if what}


@pytest.mark.parametrize('page', pages, ids=str)
def test_no_page_ends_in_a_cell_that_only_tests(page):
    assert not page_rules.ends_in_test(page_rules.cells(root / 'nbs' / page))


@pytest.mark.parametrize('page', pages, ids=str)
def test_a_page_says_in_one_line_what_it_is_for(page):
    said = page_rules.promise(page_rules.cells(root / 'nbs' / page))
    assert said and len(said) <= page_rules.PROMISE, said


def test_the_sidebar_names_every_page():
    assert not check_docs.sidebar_problems(root)


@pytest.mark.parametrize('module', code)
def test_a_module_imports_only_from_pages_before_it(module):
    order = list(project.modules())
    later = [m for m in imported(module) if order.index(m) >= order.index(module)]
    assert not later, f'{module} imports {later}'


@pytest.mark.parametrize('module', code)
def test_a_room_imports_only_from_rooms_before_it(module):
    def floor(name):
        return -1 if '.' not in name else ROOMS.index(name.split('.')[0])

    above = [m for m in imported(module) if floor(m) > floor(module)]
    assert not above, f'{module} imports {above}'


def test_every_room_is_a_folder_of_pages_and_of_modules():
    assert {p.parent.name for p in modules if p.parent != package} == set(ROOMS)
    for name, page in project.modules().items():
        room, _, leaf = name.rpartition('.')
        assert page.parent == Path(room) and page.stem.partition('_')[2] == leaf, (
            f'{page} exports {name}'
        )


@pytest.mark.parametrize('module', code)
def test_exported_code_needs_no_development_package(module):
    names = [n.module or '' for n in ast.walk(code[module]) if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in ast.walk(code[module]) if isinstance(n, ast.Import) for a in n.names]
    assert not {n.split('.')[0] for n in names} & {'nbdev', 'fastcore', 'execnb', 'pytest'}
    assert not any(
        a.name == '*'
        for n in ast.walk(code[module])
        if isinstance(n, ast.ImportFrom)
        for a in n.names
    )


def test_every_module_comes_from_a_page():
    assert set(code) == set(project.modules())


@pytest.mark.parametrize('page', pages, ids=str)
def test_pages_are_small(page):
    n_cells = page_rules.ideas(page_rules.cells(root / 'nbs' / page))
    assert n_cells <= page_rules.CELLS and (root / 'nbs' / page).stat().st_size <= 1.5e6


def test_no_stored_errors():
    assert not project.stored_errors()


@pytest.mark.parametrize('page', pages, ids=str)
def test_no_stored_warnings_or_paths(page):
    outputs = [o for c in pages[page].cells for o in c.get('outputs', [])]
    assert not [o.text for o in outputs if o.output_type == 'stream' and o.name == 'stderr']
    said = ''.join(
        str(o.get('text', '')) + str(o.get('data', {}).get('text/plain', '')) for o in outputs
    )
    assert '/tmp/' not in said and '/home/' not in said and str(root) not in said


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((root / 'CITATION.cff').read_text(encoding='utf-8'))
    assert f'version = {cited["version"]}\n' in (root / 'settings.ini').read_text()


@pytest.mark.parametrize(
    'form', (root / '.github/ISSUE_TEMPLATE').glob('*.yml'), ids=lambda p: p.stem
)
def test_issue_forms_can_be_read(form):
    body = yaml.safe_load(form.read_text(encoding='utf-8')).get('body', [])
    assert form.stem == 'config' or all(b['type'] and b['attributes'] for b in body)


def test_settings_keep_the_parameters_tag():
    assert 'allowed_cell_metadata_keys = tags' in (root / 'settings.ini').read_text()


@pytest.mark.usefixtures('cold')
def test_this_python_imports_the_checkout():
    run = subprocess.run(
        [sys.executable, '-c', 'import mri_diffusion; print(mri_diffusion.__file__)'],
        cwd='/',
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(run.stdout.strip()).parent == root / 'mri_diffusion'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "An sdist of a copy, and the wheel built from that sdist"
    copy, out = project.copy_to(tmp_path_factory.mktemp('copy')), tmp_path_factory.mktemp('dist')
    subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(out), str(copy)],
        check=True,
        capture_output=True,
        env=os.environ | dict(COLD_PYTHON='1'),
    )
    return next(out.glob('*.tar.gz')), next(out.glob('*.whl'))


@pytest.mark.install
def test_wheel_holds_modules_and_experiments(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert {f'mri_diffusion/{p.relative_to(package)}' for p in modules} <= names
    assert {f'mri_diffusion/notebooks/{p.name}' for p in experiments} <= names
    assert {'mri_diffusion/py.typed', 'mri_diffusion/methods/table.json'} <= names
    assert not [n for n in names if n.startswith(('nbs/', 'tests/', 'tools/'))]


@pytest.mark.install
def test_a_plain_install_brings_no_jupyter(built):
    with zipfile.ZipFile(built[1]) as wheel:
        path = next(n for n in wheel.namelist() if n.endswith('/METADATA'))
        lines = wheel.read(path).decode().splitlines()
    needs = [n.removeprefix('Requires-Dist: ') for n in lines if n.startswith('Requires-Dist')]
    plain = ' '.join(n for n in needs if 'extra ==' not in n)
    for name in ('jupyterlab', 'ipywidgets', 'papermill', 'ipykernel'):
        extras = {n.split('extra == ')[1].strip('"') for n in needs if n.startswith(name)}
        assert name not in plain and {'dev', 'all'} < extras <= {'dev', 'all', 'lab', 'report'}


@pytest.mark.install
@pytest.mark.usefixtures('cold')
def test_wheel_installs_and_finds_its_experiments(built, tmp_path):
    pip = [
        sys.executable,
        '-m',
        'pip',
        'install',
        '--quiet',
        '--no-deps',
        '--no-index',
        '--target',
        str(tmp_path),
        str(built[1]),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    ask = (
        'import sys; sys.path.insert(0, sys.argv[1]); from mri_diffusion.app.experiments import *; '
        'print(experiments_folder(), *list_experiments())'
    )
    folder, *names = subprocess.run(
        [sys.executable, '-c', ask, str(tmp_path)],
        cwd='/',
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert Path(folder) == tmp_path / 'mri_diffusion' / 'notebooks' and set(names) == {
        p.stem for p in experiments
    }


def test_the_table_of_methods_is_what_the_methods_say():
    assert methods_table.FILE.read_text(encoding='utf-8') == methods_table.text(), (
        'run python tools/methods.py'
    )


def test_every_page_names_its_next_and_folds_its_proofs():
    assert not reading.changed(), 'run python tools/reading.py'
