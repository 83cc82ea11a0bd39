"""Every hand-written product keeps the rules of the teacher, the user, the tools and the rubric.

Attempts are carried out without any server, through the prompts that the services really send: what
the end-to-end test shows over the wire, this finds in milliseconds, and says where.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import pytest

from services.rubric_judge.question import ask
from services.rubric_judge.record import record_of
from services.rubric_judge.votes import Vote
from services.task_synthesis.teacher import (
    Attempt,
    Route,
    drafting,
    fuzzy_task,
    rubric,
    sql_world,
    tool_check,
)
from services.task_synthesis.teacher.attempts import solves
from services.task_synthesis.teacher.products import (
    Distractors,
    FuzzyTask,
    KeepVerdict,
    LeakVerdict,
    Rubric,
    ToolCheck,
    ToolSet,
)
from services.task_synthesis.teacher.sql_product import SqlWorld
from services.user_simulator.answer import Spoken, to_reply
from services.user_simulator.model_user import _role, _turn
from synthagent.worlds.arguments import compile_schema
from synthagent.worlds.certify import certify
from synthagent.worlds.criteria import JudgedCheck
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    CriterionResult,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    ToolResult,
    Verdict,
)
from synthagent.worlds.fidelity import listen
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.protocol import parse
from synthagent.worlds.rubric import judge
from synthagent.worlds.spec import Gate, GateStatus, Persona, Split, Task
from synthagent.worlds.versions import canonical, next_version, session_hash
from tests.replay.actors import Actors, Asked, _written
from tests.replay.products import ReplayProduct, load

PRODUCTS = load()
SIMULATED = [name for name, product in PRODUCTS.items() if not product.is_sql]
SQL = [name for name, product in PRODUCTS.items() if product.is_sql]
REPAIRED = [name for name in SQL if isinstance(PRODUCTS[name].steps["SqlWorld"], list)]
ACTORS = Actors(PRODUCTS)
LENGTHS = {"short": 5, "medium": 6, "long": 7}


@cache
def drafted(name: str, sent_back: int = 9) -> Task:
    """The certified task that the teacher makes of the product before any attempt."""
    product = PRODUCTS[name]
    route, persona = Route(**product.route), Persona(**product.persona.model_dump())
    if product.is_sql:
        world = SqlWorld.model_validate(product.step("SqlWorld", sent_back))
        task = sql_world.assembled(route, persona, Split.TRAIN, world)
    else:
        checked = tool_check.check(ToolSet.model_validate(product.step("ToolSet", sent_back)))
        answers = ToolCheck.model_validate(product.step("ToolCheck")).answers
        kept, _ = tool_check.without_replaceable(checked, answers)
        extra = Distractors.model_validate(product.step("Distractors")).tools
        tools = tool_check.with_distractors(kept, extra)
        told = fuzzy_task.check(
            FuzzyTask.model_validate(product.step("FuzzyTask", sent_back)),
            tool_names=[tool.name for tool in tools.tools],
            workflow=tools.workflow,
        )
        task = drafting.draft_task(route, persona, Split.TRAIN, tools, told)
    return task.model_copy(update={"certificate": certify(task)})


def played(product: ReplayProduct, task: Task, number: int) -> list[Event]:
    """The log of an attempt. Arguments, results and replies are checked on the way."""
    events: list[Event] = []
    image = compile_world(task.world)
    version = image.root_version
    with image.open() as session:
        tables = session.state_hash

    def add(body: EventBody) -> None:
        events.append(Event(sequence=len(events), body=body))

    for turn in product.attempts[number].turns:
        said = parse(_written(turn, product))
        add(said)
        if said.action is AgentAction.MESSAGE:
            heard = listen(task, events)
            answer = answered("Spoken", [("system", _role(heard)), ("user", _turn(events))])
            reply = to_reply(heard, Spoken.model_validate(answer))
            assert turn.ask not in {fact.name for fact in product.facts} - set(reply.revealed)
            add(reply)
        elif said.action is AgentAction.CALL:
            result = called(task, said)
            tool = task.world.tool(said.tool)
            if result.ok and tool is not None and tool.changes_state:
                version = next_version(version, said.tool, canonical(said.arguments))
            add(result.model_copy(update={"state_hash": session_hash(tables, version)}))
    add(EpisodeEnd(outcome=EpisodeOutcome.ANSWERED))
    return events


def answered(schema: str, messages: Sequence[tuple[str, str]]) -> dict[str, object]:
    """What the replay server answers to a prompt."""
    told = [{"role": role, "content": content} for role, content in messages]
    value = json.loads(ACTORS.answer(Asked(told, schema, seed=0)))
    assert isinstance(value, dict)
    return value


def called(task: Task, turn: AgentTurn) -> ToolResult:
    tool = task.world.tool(turn.tool)
    assert tool is not None, turn.tool
    assert tool.output_schema is not None
    assert compile_schema(tool.input_schema).is_valid(json.loads(turn.arguments)), turn
    result = answered("tool_answer", [("user", f"The call:\n\n`{turn.tool}` `{turn.arguments}`")])
    failed = "error" in result
    assert failed or compile_schema(tool.output_schema).is_valid(result), (turn, result)
    return ToolResult(
        ok=not failed,
        result=json.dumps(result),
        error_code="failed" if failed else "",
        state_hash="0" * 32,
    )


def judged(task: Task, events: Sequence[Event]) -> Verdict:
    """The verdict with the votes of the replay server."""
    votes = {}
    for criterion in task.criteria:
        if isinstance(criterion.check, JudgedCheck):
            messages = [
                (str(m.role), m.content) for m in ask(task, record_of(events), criterion).messages
            ]
            vote = Vote.model_validate(answered("Vote", messages))
            votes[criterion.criterion_id] = CriterionResult(
                criterion_id=criterion.criterion_id,
                satisfied=vote.answer == "YES",
                evidence=tuple(vote.evidence),
                explanation=vote.rationale,
            )
    return judge(task, compile_world(task.world), events, "paper", votes)


def test_there_are_enough_and_varied_ones() -> None:
    assert len(SIMULATED) >= 10
    assert len(SQL) >= 3
    for dimension in ("domain", "tool_family"):
        values = {product.route[dimension] for product in PRODUCTS.values()}
        assert len(values) >= len(PRODUCTS) - 2, dimension
    assert {PRODUCTS[name].route["length"] for name in SIMULATED} == LENGTHS.keys()
    assert REPAIRED


@pytest.mark.parametrize("name", SIMULATED)
def test_the_draft_passes_every_gate_that_applies(name: str) -> None:
    product, task = PRODUCTS[name], drafted(name)
    assert task.certificate is not None
    assert task.certificate.passed, task.certificate.gates[-1]
    assert not LeakVerdict.model_validate(product.step("LeakVerdict")).leaks
    assert len(task.workflow) == LENGTHS[product.route["length"]]


@pytest.mark.parametrize("name", SIMULATED)
def test_at_least_two_different_attempts_solve_it_and_the_others_do_not(name: str) -> None:
    product, draft = PRODUCTS[name], drafted(name)
    opened = {_written(script.turns[0], product) for script in product.attempts}
    assert len(opened) == len(product.attempts), "attempts are told apart by their first turn"
    attempts = [
        Attempt(script.name, played(product, draft, number))
        for number, script in enumerate(product.attempts)
    ]
    task = rubric.typed(draft, Rubric.model_validate(product.step("Rubric")), attempts)
    certificate = certify(task)
    assert certificate.passed, certificate.gates[-1]
    good = []
    for attempt in attempts:
        verdict = judged(task, attempt.events)
        assert verdict.reward is not None, verdict.detail
        if solves(task, Attempt(attempt.trajectory_id, attempt.events, verdict)):
            lost = [result for result in verdict.results if not result.satisfied]
            assert not lost, (attempt.trajectory_id, lost)
            good.append(attempt)
    assert len({str(attempt.events) for attempt in good}) >= 2
    assert len(good) < len(attempts), "an attempt that the rubric refuses shows what it is for"
    kinds = [criterion.check.kind for criterion in task.criteria]
    assert {"judged", "called", "asked", "answer"} <= set(kinds)
    assert len(kinds) - kinds.count("judged") >= 5, "an engine can check more of this"
    assert KeepVerdict.model_validate(product.step("KeepVerdict")).keep


@pytest.mark.parametrize("name", SQL)
def test_the_sql_world_passes_every_gate(name: str) -> None:
    certificate = drafted(name).certificate
    assert certificate is not None
    assert certificate.passed, certificate.gates[-1]
    passed = {gate.gate for gate in certificate.gates if gate.status is GateStatus.PASSED}
    assert passed == set(Gate) - {Gate.NOVELTY}


@pytest.mark.parametrize("name", REPAIRED)
def test_a_first_try_fails_a_gate(name: str) -> None:
    certificate = drafted(name, sent_back=0).certificate
    assert certificate is not None
    assert not certificate.passed


def test_no_product_is_near_another() -> None:
    index = NoveltyIndex()
    for name in PRODUCTS:
        nearest = index.nearest(drafted(name))
        assert nearest is None or nearest.similarity < 0.5, (name, nearest)
        index.add(drafted(name))
