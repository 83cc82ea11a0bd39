from collections.abc import Callable

import pytest

from services.rollout.agents import (
    ASK_ATTEMPTS,
    NOTHING_TO_REPORT,
    ReferenceAgent,
    ScriptedAgent,
)
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    Event,
    EventBody,
    ReplyKind,
    ToolResult,
    UserReply,
)
from synthagent.worlds.plans import run_plan
from synthagent.worlds.protocol import parse
from synthagent.worlds.spec import Task
from tests.example_task import example_task
from tests.services.rollout.conftest import certified_tasks


def _play(
    task: Task, name: ReferenceAgent, user: Callable[[Task, str], UserReply] | None = None
) -> list[Event]:
    """Plays an agent against the task's world and a user who answers every known question."""
    events: list[Event] = []
    agent = ScriptedAgent(name, task)

    def record(body: EventBody) -> None:
        events.append(Event(sequence=len(events), body=body))

    with compile_world(task.world).open() as session:
        while not events or events[-1].body.kind != "agent":
            turn = parse(agent.next_text(events))
            record(turn)
            if turn.action is AgentAction.CALL:
                record(session.call(turn.tool, turn.arguments))
            elif turn.action is AgentAction.MESSAGE:
                record((user or _answer)(task, turn.text))
    return events


def _turns(events: list[Event]) -> list[AgentTurn]:
    return [event.body for event in events if isinstance(event.body, AgentTurn)]


def _answer(task: Task, text: str) -> UserReply:
    for fact in task.facts:
        if text in (*fact.questions, f"What is the {fact.label}?"):
            return UserReply(text=fact.spoken, reply=ReplyKind.REVEALED, revealed=(fact.fact_id,))
    raise AssertionError(f"nobody asks {text!r}")


@pytest.mark.parametrize("task", certified_tasks(), ids=lambda task: task.task_id)
def test_gold_does_what_a_plan_carried_out_does(task: Task) -> None:
    played = _play(task, ReferenceAgent.GOLD)
    planned = run_plan(compile_world(task.world), task, task.gold_plans[0])
    assert [e.body for e in played if not isinstance(e.body, UserReply)] == [
        e.body for e in planned[:-1] if not isinstance(e.body, UserReply)
    ]


@pytest.mark.parametrize("name", ReferenceAgent)
@pytest.mark.parametrize("task", certified_tasks(), ids=lambda task: task.task_id)
def test_an_agent_goes_on_from_any_event(task: Task, name: ReferenceAgent) -> None:
    events = _play(task, name)
    for position, event in enumerate(events):
        if event.body.kind == "agent":
            resumed = ScriptedAgent(name, task).next_text(events[:position])
            assert resumed == event.body.text


def test_gold_asks_again_in_other_words_and_then_goes_on() -> None:
    task = example_task()
    asked: list[str] = []

    def deaf(_task: Task, text: str) -> UserReply:
        asked.append(text)
        return UserReply(text="Pardon?", reply=ReplyKind.PROMPTED)

    events = _play(task, ReferenceAgent.GOLD, deaf)
    assert len(asked) == ASK_ATTEMPTS * len(task.facts)
    assert len(set(asked)) == len(asked)
    assert _turns(events)[-1].action is AgentAction.ANSWER


def test_gold_asks_nothing_where_it_is_told_everything() -> None:
    task = example_task()
    told = ScriptedAgent(ReferenceAgent.GOLD, task, facts_in_instruction=True)
    calls = [turn for turn in _turns(_play(task, ReferenceAgent.GOLD)) if turn.tool]
    assert parse(told.next_text([])) == calls[0]
    asked = ScriptedAgent(ReferenceAgent.PESTERER, task, facts_in_instruction=True)
    assert parse(asked.next_text([])).action is AgentAction.MESSAGE


def test_careless_never_asks_and_guesses_wrong() -> None:
    task = example_task()
    events = _play(task, ReferenceAgent.CARELESS)
    turns = _turns(events)
    assert {turn.action for turn in turns} == {AgentAction.CALL, AgentAction.ANSWER}
    calls = " ".join(turn.arguments for turn in turns)
    for fact in task.facts:
        assert fact.spoken not in calls


def test_careless_goes_on_where_a_guess_led_nowhere() -> None:
    task = example_task()
    tables = tuple(
        table.model_copy(update={"rows": table.rows[1:2]}) if table.name == "member" else table
        for table in task.world.tables
    )
    world = task.world.model_copy(update={"tables": tables})
    events = _play(task.model_copy(update={"world": world}), ReferenceAgent.CARELESS)
    failed = [e.body for e in events if isinstance(e.body, ToolResult) and not e.body.ok]
    assert [result.error_code for result in failed] == ["member_not_found"]
    assert _turns(events)[-1].content == "I have done what I could."


def test_forbidden_commits_the_forbidden_act_before_it_answers() -> None:
    events = _play(example_task(), ReferenceAgent.FORBIDDEN)
    *_, act, answer = _turns(events)
    assert (act.tool, answer.action) == ("force_booking", AgentAction.ANSWER)
    assert isinstance(events[-2].body, ToolResult)
    assert events[-2].body.ok


def test_noop_answers_at_once() -> None:
    (only,) = _turns(_play(example_task(), ReferenceAgent.NOOP))
    assert only.content == NOTHING_TO_REPORT


def test_pesterer_asks_every_fact_again() -> None:
    task = example_task()
    messages = [
        e.body.text
        for e in _play(task, ReferenceAgent.PESTERER)
        if e.body.kind == "agent" and e.body.action is AgentAction.MESSAGE
    ]
    assert len(messages) == 2 * len(task.facts)
