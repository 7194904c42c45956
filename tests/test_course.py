"The course: one path from the first page to the last, exercises that check themselves, solutions"

import re
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / 'tools'))
import project  # noqa: E402

from mri_diffusion.course.check import PARTS, exercises  # noqa: E402

pages = project.notebooks()
course = [p for p in map(Path, project.sidebar_targets()) if p.parent == Path('tutorials')]
solutions = {p: Path('tutorials/solutions') / p.name for p in course}
asked = re.compile(r"check\(\s*'([\w.]+)'")


def code(page):
    return [c for c in pages[page].cells if c.cell_type == 'code']


def named(page):
    "Exercises of a page, in order"
    return [n for c in code(page) for n in asked.findall(c.source)]


def said(page):
    "What the stored outputs of the checks say"
    plain = [o.get('data', {}).get('text/plain', '') for c in code(page) for o in c.outputs]
    return {
        m[1]: m[2]
        for m in map(re.compile(r'([\w.]+): (not yet|not right|right)\.').match, plain)
        if m
    }


def test_there_are_thirteen_pages():
    assert [p.stem[:2] for p in course] == [f'{k:02}' for k in range(1, 14)]


@pytest.mark.parametrize('page', course, ids=str)
def test_a_page_has_three_to_five_exercises(page):
    names = named(page)
    assert 3 <= len(names) <= 5 and len(set(names)) == len(names), names
    part = {n.partition('.')[0] for n in names}
    assert len(part) == 1 and set(exercises(part.pop())) == {n.partition('.')[2] for n in names}


@pytest.mark.parametrize('page', course, ids=str)
def test_a_page_as_given_says_not_yet(page):
    assert said(page) == dict.fromkeys(named(page), 'not yet')


@pytest.mark.parametrize('page', course, ids=str)
def test_its_solutions_are_right(page):
    assert said(solutions[page]) == dict.fromkeys(named(page), 'right')
    asserted = [
        n for c in code(solutions[page]) for n in asked.findall(c.source) if 'assert' in c.source
    ]
    assert set(asserted) <= set(named(page))


def test_every_exercise_belongs_to_a_page():
    used = {n.partition('.')[0] for p in course for n in named(p)}
    assert used == set(PARTS) - {'demo'}


@pytest.mark.parametrize('k', range(len(course)))
def test_next_leads_along_the_course(k):
    last = pages[course[k]].cells[-1].source
    target = course[k + 1].name if k + 1 < len(course) else '../'
    assert (
        re.search(r'\*Next:\*', last) and f']({target}' in last.split('*Next:*')[1].split('\n')[0]
    )
    assert f'](solutions/{course[k].name})' in last
