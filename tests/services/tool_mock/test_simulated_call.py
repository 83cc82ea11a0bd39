"""The course of an episode: what a call is told of it, and how little of it is kept."""

import itertools
from functools import reduce

import pytest

from services.tool_mock.simulated_call import (
    MAX_EARLIER_VERSIONS,
    MAX_PAST_CALLS,
    Course,
    PastCall,
)
from synthagent.worlds.versions import next_version
from tests.services.tool_mock.lending import lending_task

TASK = lending_task()
READS, _, CHANGES = TASK.world.tools
ROOT = "0" * 32


def past_call(number: int, *, changed: bool) -> PastCall:
    return PastCall("lend_thing", f'{{"thing":"thing {number}"}}', '{"note":"x"}', changed)


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 32, 33, 400])
def test_a_call_gets_the_latest_of_its_course_and_the_root(length: int) -> None:
    made = [past_call(number, changed=number % 3 == 0) for number in range(length)]
    changes = [call for call in made if call.changed]
    course = Course(ROOT)
    for call in made:
        course.add(call)
    versions = [*itertools.accumulate(changes, following, initial=ROOT)]
    read, change = (course.call(TASK, tool, "{}") for tool in (READS, CHANGES))
    assert read.past == tuple(changes[-MAX_PAST_CALLS:])
    assert change.past == tuple(made[-MAX_PAST_CALLS:])
    assert read.versions == (ROOT, *versions[1:][-MAX_EARLIER_VERSIONS:]) == change.versions
    assert read.version == versions[-1] == course.version


def following(version: str, call: PastCall) -> str:
    return next_version(version, call.tool, call.arguments)


def test_a_long_course_forgets_calls_and_never_its_version() -> None:
    course = Course(ROOT)
    made = [past_call(number, changed=True) for number in range(10_000)]
    for call in made:
        course.add(call)
    kept = course.call(TASK, CHANGES, "{}")
    assert len(kept.past) == MAX_PAST_CALLS
    assert len(kept.versions) == 1 + MAX_EARLIER_VERSIONS
    assert kept.version == reduce(following, made, ROOT)
