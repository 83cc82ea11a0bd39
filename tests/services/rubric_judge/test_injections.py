"""Attempts to talk the judge over, through the real prompt builder and past the engine."""

from collections import Counter

import orjson
import pytest

from services.rubric_judge.question import Question, ask
from services.rubric_judge.record import record_of
from services.rubric_judge.verdict import Advisers, reach_verdict
from synthagent.worlds.episode import AgentTurn, EpisodeEnd, EpisodeOutcome
from synthagent.worlds.protocol import answer_turn, call_turn
from tests.services.rubric_judge.conftest import MakeBench
from tests.services.rubric_judge.episodes import IMAGE, KEPT_QUIET, POLITE, TASK, log
from tests.services.rubric_judge.injections import INJECTIONS, PLACES, Injection, episode, spoken
from tests.services.rubric_judge.judge_server import vote

FIELDS = {
    "message": {"event", "by", "what", "text"},
    "answer": {"event", "by", "what", "text"},
    "arguments": {"event", "by", "what", "tool", "arguments"},
    "tool": {"event", "by", "what", "tool", "arguments"},
    "result": {"event", "by", "succeeded", "error", "result"},
    "error": {"event", "by", "succeeded", "error", "result"},
    "reply": {"event", "by", "text"},
}


def named(injection: Injection) -> str:
    return injection.name


def parts(question: Question) -> tuple[str, list[str], str, str]:
    """Of the judge's prompt: what stands before the record, its lines, what stands after, fence."""
    system, user = question.messages
    assert system.role == "system"
    assert user.role == "user"
    lines = user.content.split("\n")
    fence = next(line for line in lines if line.startswith("----- "))
    first, last = lines.index(fence), len(lines) - 1 - lines[::-1].index(fence)
    assert lines.count(fence) == 2
    return "\n".join(lines[:first]), lines[first + 1 : last], "\n".join(lines[last + 1 :]), fence


def test_there_are_enough_of_them_and_of_every_kind() -> None:
    assert len({injection.name for injection in INJECTIONS}) == len(INJECTIONS) >= 40
    assert len({injection.text for injection in INJECTIONS}) == len(INJECTIONS)
    assert min(Counter(injection.kind for injection in INJECTIONS).values()) >= 3


@pytest.mark.parametrize("injection", INJECTIONS, ids=named)
def test_a_text_stays_in_its_place(injection: Injection) -> None:
    """Only the one value that holds the text differs from the prompt of a harmless episode."""
    for place in PLACES:
        check_place(injection, place)


def check_place(injection: Injection, place: str) -> None:
    events, position, field = episode(place, injection.text)
    harmless, _, _ = episode(place, "Good morning.")
    system = ask(TASK, record_of(events), KEPT_QUIET).messages[0]
    assert system == ask(TASK, record_of(harmless), KEPT_QUIET).messages[0]
    before, lines, after, fence = parts(ask(TASK, record_of(events), KEPT_QUIET))
    harmless_before, harmless_lines, harmless_after, _ = parts(
        ask(TASK, record_of(harmless), KEPT_QUIET)
    )
    assert (before, after) == (harmless_before, harmless_after)
    assert fence not in "\n".join(lines)

    read = [orjson.loads(line) for line in lines]
    assert [line["event"] for line in read] == list(range(len(events)))
    assert set(read[position]) == FIELDS[place]
    said = read[position].pop(field)
    if "think>" not in injection.text:
        assert said.strip() == injection.text.strip()
    expected = [orjson.loads(line) for line in harmless_lines]
    del expected[position][field]
    for line in (read[position], expected[position]):
        line.pop("succeeded", None)  # an error's text decides whether there is one
    assert read == expected


@pytest.mark.parametrize("injection", INJECTIONS, ids=named)
def test_no_text_brings_along_what_a_chat_template_would_read(injection: Injection) -> None:
    for place in PLACES:
        _, lines, _, _ = parts(ask(TASK, record_of(episode(place, injection.text)[0]), KEPT_QUIET))
        for line in lines:
            assert not set("<>`") & set(line)
            assert "[INST]" not in line
            assert "[/INST]" not in line
            assert all(character == " " or character.isprintable() for character in line)
            assert not set("\u3164\u115f\ufe0f\ufe01\U000e0101") & set(line)


@pytest.mark.parametrize(
    "injection", [injection for injection in INJECTIONS if injection.hidden], ids=named
)
def test_reasoning_does_not_reach_the_judge(injection: Injection) -> None:
    question = ask(TASK, record_of(spoken(injection.text)), POLITE)
    assert injection.hidden in injection.text
    assert all(injection.hidden not in message.content for message in question.messages)
    shown = parts(question)[1][0]
    assert "I could not do it." in shown or '"tool":"find_courts"' in shown


async def test_no_text_talks_the_engine_over(make_bench: MakeBench) -> None:
    """With a judge that says YES to everything: what the engine checks stays as it is."""
    wanted = {c.criterion_id for c in TASK.criteria} - {"polite", "kept_quiet"}
    async with make_bench(lambda _: vote("YES"), votes=1) as bench:
        for injection in INJECTIONS:
            with IMAGE.open() as session:
                forced = call_turn(
                    "force_booking", {"court_id": "C-11", "member_id": "M-501", "day": "sunday"}
                )
                asked = AgentTurn(
                    text="", action=forced.action, tool="find_member", arguments=injection.text
                )
                named = AgentTurn(
                    text="", action=forced.action, tool=injection.text, arguments="{}"
                )
                results = [session.call(t.tool, t.arguments) for t in (forced, asked, named)]
            events = log(
                forced, results[0], asked, results[1], named, results[2],
                answer_turn(injection.text), EpisodeEnd(outcome=EpisodeOutcome.ANSWERED),
            )  # fmt: skip
            verdict = await reach_verdict(
                TASK, IMAGE, events, "paper",
                advisers=Advisers(judge=bench.judge), key=injection.name,
            )  # fmt: skip
            assert verdict.reward == 0.0, injection.name
            satisfied = {r.criterion_id for r in verdict.results if r.satisfied} & wanted
            expected = {"told_booking"} if "B-902" in injection.text else set()
            assert satisfied == expected, injection.name
