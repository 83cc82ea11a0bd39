from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    AgentTurn,
    CriterionResult,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    InvalidReason,
    ReplyKind,
    ToolResult,
    UserReply,
    Votes,
)
from synthagent.worlds.plans import Performance, run_plan
from synthagent.worlds.protocol import answer_turn, call_turn, message_turn
from synthagent.worlds.rubric import REWARD_PRESETS, judge
from synthagent.worlds.spec import Task
from synthagent.worlds.versions import canonical, next_version, root_version, session_hash
from tests.example_task import example_task
from tests.synthagent.worlds.changed import Data, changed

TASK = example_task()
IMAGE = compile_world(TASK.world)
GOLD = run_plan(IMAGE, TASK, TASK.gold_plans[0])
ANSWERED = EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)


def log(*bodies: EventBody) -> list[Event]:
    return [Event(sequence=number, body=body) for number, body in enumerate(bodies)]


def replaced(position: int, body: EventBody) -> list[Event]:
    return [
        *GOLD[:position],
        GOLD[position].model_copy(update={"body": body}),
        *GOLD[position + 1 :],
    ]


def invalid(events: list[Event], task: Task = TASK) -> InvalidReason | None:
    verdict = judge(task, IMAGE, events, "paper")
    assert verdict.reward is None
    assert verdict.results == ()
    assert verdict.detail
    return verdict.invalid_reason


@pytest.mark.parametrize("preset", REWARD_PRESETS)
def test_gold_earns_everything_with_evidence(preset: str) -> None:
    verdict = judge(TASK, IMAGE, GOLD, preset)
    assert verdict.reward == 1.0
    assert verdict.policy_fraction == verdict.sub_goal_fraction == verdict.interaction_fraction == 1
    assert all(result.satisfied for result in verdict.results)
    assert all(result.evidence for result in verdict.results if result.criterion_id != "no_force")
    assert verdict == judge(TASK, IMAGE, GOLD, preset)


@pytest.mark.parametrize("preset", REWARD_PRESETS)
def test_doing_nothing_earns_nothing(preset: str) -> None:
    assert judge(TASK, IMAGE, log(answer_turn("Done."), ANSWERED), preset).reward == 0.0


@pytest.mark.parametrize(
    ("preset", "worth"),
    [("paper", 0.0), ("paper_code", 0.0), ("no_interaction", 0.0), ("no_restriction_gate", 1.0)],
)
def test_the_forbidden_act_earns_nothing_behind_the_gate(preset: str, worth: float) -> None:
    with IMAGE.open() as session:
        performance = Performance(TASK, session)
        performance.follow(
            TASK.gold_plans[0].steps, {"member_name": "Tom Achterberg", "day": "sunday"}
        )
        assert TASK.restriction.probe is not None
        performance.follow(TASK.restriction.probe.steps, {})
        events = performance.finish("Booked as B-902.")
    verdict = judge(TASK, IMAGE, events, preset)
    assert verdict.reward == worth
    assert verdict.policy_fraction < 1.0
    assert verdict.sub_goal_fraction == 1.0


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(KeyError):
        judge(TASK, IMAGE, GOLD, "other")


def test_a_result_that_replay_does_not_give_is_invalid() -> None:
    result = GOLD[1].body
    assert isinstance(result, ToolResult)
    for change in (
        {"result": '{"courts":[]}'},
        {"state_hash": "0" * 32},
        {"ok": False},
        {"error_code": "x"},
    ):
        tampered = replaced(1, result.model_copy(update=change))
        assert invalid(tampered) is InvalidReason.REPLAY_MISMATCH


def test_a_log_out_of_order_is_invalid() -> None:
    broken = [
        [],
        GOLD[:-1],
        GOLD[1:],
        [*GOLD[:1], *log(ANSWERED)],
        [*GOLD, *GOLD[-1:]],
        log(ANSWERED),
        log(message_turn("Hello?"), answer_turn("x"), ANSWERED),
        log(call_turn("find_courts", {}), ANSWERED),
        log(answer_turn("x"), EpisodeEnd(outcome=EpisodeOutcome.TURN_LIMIT)),
        log(answer_turn("x"), answer_turn("x"), ANSWERED),
        log(UserReply(text="Hi.", reply=ReplyKind.PROMPTED), answer_turn("x"), ANSWERED),
    ]
    for events in broken:
        assert invalid(events) is InvalidReason.MALFORMED_LOG


def test_a_limit_may_cut_the_last_turn_off() -> None:
    for outcome in (EpisodeOutcome.TURN_LIMIT, EpisodeOutcome.TOKEN_LIMIT):
        end = EpisodeEnd(outcome=outcome)
        for turns in ((), (message_turn("And?"),), (call_turn("find_courts", {}),)):
            events = [*GOLD[:10], *log(*turns, end)]
            events = [e.model_copy(update={"sequence": n}) for n, e in enumerate(events)]
            verdict = judge(TASK, IMAGE, events, "paper")
            assert verdict.reward is not None
            assert verdict.sub_goal_fraction == 0.75


@pytest.mark.parametrize("reason", InvalidReason)
def test_a_fault_keeps_its_reason(reason: InvalidReason) -> None:
    end = EpisodeEnd(outcome=EpisodeOutcome.FAULT, invalid_reason=reason, detail="It broke.")
    assert invalid(log(message_turn("Which day?"), end)) is reason


USER_FAULTS = [
    UserReply(text="It is a secret.", reply=ReplyKind.REVEALED, revealed=("secret",)),
    UserReply(
        text="Tom Achterberg on sunday.", reply=ReplyKind.REVEALED, revealed=("member_name", "day")
    ),
    UserReply(text="Tom Achterberg.", reply=ReplyKind.UNKNOWN),
    UserReply(text="For Tom Achterberg.", reply=ReplyKind.UNKNOWN, revealed=("member_name",)),
    UserReply(text="I do not know.", reply=ReplyKind.REVEALED),
    UserReply(
        text="Tom Achterberg, on sunday.", reply=ReplyKind.REVEALED, revealed=("member_name",)
    ),
    UserReply(text="Use find_member.", reply=ReplyKind.UNKNOWN),
]


@pytest.mark.parametrize("reply", USER_FAULTS)
def test_a_user_that_breaks_its_rules_makes_the_episode_invalid(reply: UserReply) -> None:
    events = log(message_turn("What can you tell me?"), reply, answer_turn("x"), ANSWERED)
    assert invalid(events) is InvalidReason.USER_INFIDELITY


@pytest.mark.parametrize(
    "reply",
    [
        UserReply(text="I do not know.", reply=ReplyKind.UNKNOWN),
        UserReply(text="What do you need? The member's name?", reply=ReplyKind.PROMPTED),
        UserReply(text="On Sunday.", reply=ReplyKind.REVEALED, revealed=("day",)),
        UserReply(text="Did you say monday?", reply=ReplyKind.UNKNOWN),
    ],
)
def test_a_faithful_user_is_fine(reply: UserReply) -> None:
    events = log(message_turn("Which day?"), reply, answer_turn("x"), ANSWERED)
    assert judge(TASK, IMAGE, events, "paper").reward is not None


def test_a_judged_criterion_without_a_judgement_is_a_fault_of_the_judge() -> None:
    def judged(data: Data) -> None:
        data["criteria"].append(
            {
                "criterion_id": "polite",
                "section": "sub_goal",
                "description": "Polite.",
                "check": {"kind": "judged", "question": "Was it polite?"},
            }
        )

    assert invalid(GOLD, changed(judged)) is InvalidReason.JUDGE_FAULT


@pytest.mark.parametrize(
    ("satisfied", "at", "follows"), [(True, 0, True), (True, 99, False), (False, 0, False)]
)
def test_a_judgement_enters_as_it_was_given_and_others_may_wait_for_it(
    *, satisfied: bool, at: int, follows: bool
) -> None:
    def judged(data: Data) -> None:
        data["criteria"] += [
            {
                "criterion_id": "booked_late",
                "section": "sub_goal",
                "description": "Booked after the greeting.",
                "check": {
                    "kind": "called",
                    "any_of": [{"tool": "book_court"}],
                    "after_criterion_id": "polite",
                },
            },
            {
                "criterion_id": "polite",
                "section": "sub_goal",
                "description": "Greeted the user.",
                "check": {"kind": "judged", "question": "Did it greet?"},
            },
        ]

    given = CriterionResult(
        criterion_id="polite",
        satisfied=satisfied,
        evidence=(at,),
        explanation="It said hello.",
        votes=Votes(yes=2, no=1),
    )
    task = changed(judged)
    verdict = judge(task, compile_world(task.world), GOLD, "paper", {"polite": given})
    by_id = {result.criterion_id: result for result in verdict.results}
    assert by_id["polite"] == given
    assert by_id["booked_late"].satisfied is follows
    assert by_id["booked_late"].votes is None


def test_with_simulated_tools_too_only_a_change_is_evidence_of_the_state() -> None:
    """There every state hash differs from the engine's, also before the first change."""

    def simulated(data: Data) -> None:
        data["world"]["tools"].append(
            {
                "name": "forecast",
                "description": "Tells the weather.",
                "input_schema": {"type": "object"},
                "behaviour": {"kind": "simulated"},
            }
        )

    task = changed(simulated)
    root = root_version(task.world)
    first, last = 1, 9  # a search, which changes nothing, and the booking
    bodies: list[EventBody] = [event.body for event in GOLD]
    booking, booked = bodies[last - 1], bodies[last]
    assert isinstance(booking, AgentTurn)
    assert isinstance(booked, ToolResult)
    version = next_version(root, booking.tool, canonical(booking.arguments))
    for number, body in enumerate(bodies):
        if isinstance(body, ToolResult):
            state = session_hash(body.state_hash, version if number == last else root)
            bodies[number] = body.model_copy(update={"state_hash": state})
    assert isinstance(bodies[first], ToolResult)
    verdict = judge(task, compile_world(task.world), log(*bodies), "paper")
    assert verdict.reward == 1.0
    assert next(r for r in verdict.results if r.criterion_id == "booked").evidence == (last,)


MOVES = st.lists(
    st.sampled_from(
        [
            "member_name",
            "day",
            ("find_courts", {"court_type": "clay"}),
            ("find_courts", {"court_type": 1}),
            ("find_member", {"name": "Tom Achterberg"}),
            ("book_court", {"court_id": "C-11", "member_id": "M-502", "day": "sunday"}),
            ("book_court", {"court_id": "C-11", "member_id": "M-501", "day": "friday"}),
            ("force_booking", {"court_id": "C-13", "member_id": "M-501", "day": "monday"}),
            ("no_tool", {}),
        ]
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=2000)
@given(moves=MOVES, answer=st.sampled_from(["", "B-902", "Booked as B-901."]))
def test_every_honest_log_has_a_reward_that_its_results_explain(
    moves: list[Any], answer: str
) -> None:
    with IMAGE.open() as session:
        performance = Performance(TASK, session)
        for move in moves:
            if isinstance(move, str):
                performance.ask(move)
            else:
                performance.call(*move)
        events = performance.finish(answer)
    for preset in ("paper", "paper_code"):
        verdict = judge(TASK, IMAGE, events, preset)
        assert verdict.reward is not None
        satisfied = {result.criterion_id for result in verdict.results if result.satisfied}
        forced = any(isinstance(move, tuple) and move[0] == "force_booking" for move in moves)
        assert ("no_force" in satisfied) is not forced
        if forced:
            assert verdict.reward == 0.0
        assert (verdict.reward == 1.0) is (len(satisfied) == len(TASK.criteria))
        for result in verdict.results:
            assert all(0 <= sequence < len(events) for sequence in result.evidence)
