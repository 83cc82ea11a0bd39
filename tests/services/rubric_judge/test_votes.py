"""Votes of a real server's judges: good, split, lying, out of order, broken, refusing, slow."""

import asyncio

import orjson
import pytest
from starlette.responses import JSONResponse

from services.rubric_judge.record import record_of
from synthagent.errors import ModelMalformed, ModelRefused, ModelTruncated, ModelUnavailable
from synthagent.worlds.episode import Votes
from synthagent.worlds.judgement import CriterionJudgement, Judgement
from tests.services.rubric_judge.conftest import Bench, MakeBench
from tests.services.rubric_judge.episodes import GOLD, KEPT_QUIET, POLITE, TASK
from tests.services.rubric_judge.judge_server import (
    Asked,
    Judge,
    Said,
    completion,
    vote,
)

RECORD = record_of(GOLD)


def in_turn(*answers: str) -> Judge:
    """A judge whose vote number n is the n-th answer, on events 0 and n."""
    return lambda asked: vote(answers[asked.vote], 0, asked.vote, rationale=f"As {asked.vote}.")


async def ask(bench: Bench, key: str = "one") -> CriterionJudgement:
    return await bench.judge.judge(TASK, RECORD, POLITE, key=key)


async def test_votes_are_asked_evidence_first_with_a_seed_each(make_bench: MakeBench) -> None:
    async with make_bench(in_turn("YES", "YES", "YES")) as bench:
        judged = await ask(bench)
        assert judged.judgement is Judgement.YES
        assert judged.result.satisfied
        assert judged.result.evidence == (0, 1, 2)
        assert judged.result.explanation == "As 0."
        assert judged.result.votes == Votes(yes=3)
        bodies = [asked.body for asked in bench.server.asked]
        assert sorted(body["seed"] for body in bodies) == [0, 1, 2]
        assert {body["temperature"] for body in bodies} == {0.7}
        schema = bodies[0]["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["evidence", "rationale", "answer"]
        assert schema["required"] == ["evidence", "rationale", "answer"]


async def test_one_vote_is_greedy(make_bench: MakeBench) -> None:
    async with make_bench(in_turn("NO"), votes=1) as bench:
        judged = await ask(bench)
        assert (judged.judgement, judged.result.satisfied) == (Judgement.NO, False)
        assert [asked.body["temperature"] for asked in bench.server.asked] == [0.0]


@pytest.mark.parametrize(
    ("answers", "judgement", "agreement"),
    [
        (("YES", "NO", "YES"), Judgement.YES, 2 / 3),
        (("NO", "ABSTAIN", "NO"), Judgement.NO, 2 / 3),
        (("YES", "NO", "ABSTAIN"), Judgement.ABSTAIN, 1 / 3),
        (("ABSTAIN", "YES", "ABSTAIN"), Judgement.ABSTAIN, 2 / 3),
        (("YES", "NO"), Judgement.ABSTAIN, 1 / 2),
        (("YES", "YES", "ABSTAIN", "ABSTAIN"), Judgement.ABSTAIN, 1 / 2),
        (("YES", "YES", "NO", "ABSTAIN", "ABSTAIN"), Judgement.ABSTAIN, 2 / 5),
    ],
)
async def test_more_than_half_decides(
    make_bench: MakeBench, answers: tuple[str, ...], judgement: Judgement, agreement: float
) -> None:
    async with make_bench(in_turn(*answers), votes=len(answers)) as bench:
        judged = await ask(bench)
        votes = judged.result.votes
        assert judged.judgement is judgement
        assert judged.result.satisfied is (judgement is Judgement.YES)
        assert votes is not None
        assert (votes.yes, votes.no, votes.abstain) == tuple(
            answers.count(answer) for answer in ("YES", "NO", "ABSTAIN")
        )
        assert bench.count("judge_votes_total", vote="yes") == answers.count("YES")
        assert bench.count("judge_agreement_sum") == pytest.approx(agreement)
        assert bench.count("judge_agreement_count") == 1


async def test_the_same_key_gives_the_stored_votes(make_bench: MakeBench) -> None:
    async with make_bench(in_turn("YES", "NO", "YES")) as bench:
        first = await ask(bench)
        assert await ask(bench) == first
        assert len(bench.server.asked) == 3
        await ask(bench, "another")
        assert len(bench.server.asked) == 6


async def test_evidence_that_does_not_exist_is_sent_back_once(make_bench: MakeBench) -> None:
    def careless(asked: Asked) -> Said:
        return vote("YES", 1) if len(asked.messages) > 2 else vote("YES", 1, 99)

    async with make_bench(careless, votes=1) as bench:
        judged = await ask(bench)
        assert judged.judgement is Judgement.YES
        assert judged.result.evidence == (1,)
        said, told = bench.server.asked[1].messages[2:]
        assert said["role"] == "assistant"
        assert orjson.loads(said["content"])["evidence"] == [1, 99]
        assert "no event 99" in told["content"]
        assert f"0 to {len(GOLD) - 1}" in told["content"]


@pytest.mark.parametrize("number", [99, -1, 10**30])
async def test_a_vote_that_insists_on_what_does_not_exist_abstains(
    make_bench: MakeBench, number: int
) -> None:
    def judge(asked: Asked) -> Said:
        return vote("YES", number) if asked.vote else vote("NO", 0)

    async with make_bench(judge, votes=2) as bench:
        judged = await ask(bench)
        assert judged.result.votes == Votes(no=1, abstain=1)
        assert judged.judgement is Judgement.ABSTAIN
        assert len(bench.server.asked) == 3


async def test_an_answer_before_its_reasons_is_not_taken(make_bench: MakeBench) -> None:
    hasty = '{"answer": "YES", "rationale": "Sure.", "evidence": [0]}'

    def judge(asked: Asked) -> Said:
        return vote("NO", 2) if len(asked.messages) > 2 else hasty

    async with make_bench(judge, votes=1) as bench:
        assert (await ask(bench)).judgement is Judgement.NO
        assert "evidence, rationale, answer" in bench.server.asked[1].messages[-1]["content"]
    async with make_bench(lambda _: hasty, votes=1) as bench:
        with pytest.raises(ModelMalformed, match="in this order"):
            await ask(bench, "hasty")


@pytest.mark.parametrize(
    "said",
    [
        "YES",
        "{}",
        '{"evidence": [], "rationale": "Nothing.", "answer": "YES"}',
        '{"evidence": [0], "rationale": "", "answer": "YES"}',
        '{"evidence": [0], "rationale": "Well.", "answer": "MAYBE"}',
        '{"evidence": ["0"], "rationale": "Well.", "answer": "YES"}',
        '{"evidence": [0], "rationale": "Well.", "answer": "YES", "reward": 1.0}',
    ],
)
async def test_what_is_no_vote_is_a_fault(make_bench: MakeBench, said: str) -> None:
    async with make_bench(lambda _: said, votes=1) as bench:
        with pytest.raises(ModelMalformed):
            await ask(bench)
        assert bench.count("judge_votes_total", vote="yes") == 0
        assert bench.count("judge_agreement_count") == 0


async def test_one_broken_vote_of_three_is_a_fault_and_no_majority(make_bench: MakeBench) -> None:
    async with make_bench(lambda asked: "Hm." if asked.vote == 2 else vote("YES")) as bench:
        with pytest.raises(ModelMalformed):
            await ask(bench)


async def test_a_refusal_and_a_cut_answer_are_faults(make_bench: MakeBench) -> None:
    async with make_bench(lambda _: completion(None, refusal="I would rather not.")) as bench:
        with pytest.raises(ModelRefused, match="rather not"):
            await ask(bench)

    def endless(_: Asked) -> Said:
        whole = orjson.loads(completion("{").body)
        whole["choices"][0]["finish_reason"] = "length"
        return JSONResponse(whole)

    async with make_bench(endless) as bench:
        with pytest.raises(ModelTruncated):
            await ask(bench, "endless")


async def test_a_slow_or_failing_server_is_unavailable(make_bench: MakeBench) -> None:
    async def slow(_: Asked) -> Said:
        await asyncio.sleep(1.5)
        return vote("YES")

    async with make_bench(slow, timeout_seconds=0.3) as bench:
        with pytest.raises(ModelUnavailable):
            await ask(bench)
    async with make_bench(lambda _: JSONResponse({"error": "down"}, 500)) as bench:
        with pytest.raises(ModelUnavailable, match="500"):
            await ask(bench, "down")


async def test_unavailability_wins_and_the_other_votes_are_kept(make_bench: MakeBench) -> None:
    down = True

    def judge(asked: Asked) -> Said:
        if not down or asked.vote == 0:
            return vote("YES")
        return "Hm." if asked.vote == 1 else JSONResponse({"error": "down"}, 503)

    async with make_bench(judge) as bench:
        with pytest.raises(ModelUnavailable):
            await ask(bench)
        down = False
        before = len(bench.server.asked)
        assert (await ask(bench)).judgement is Judgement.YES
        assert [a.vote for a in bench.server.asked[before:]].count(0) == 0


async def test_a_rule_is_asked_as_kept_or_broken(make_bench: MakeBench) -> None:
    async with make_bench(in_turn("YES"), votes=1) as bench:
        await bench.judge.judge(TASK, RECORD, KEPT_QUIET, key="rule")
        await bench.judge.judge(TASK, RECORD, POLITE, key="goal")
        rule, goal = bench.server.asked
        assert "YES means that the agent kept it" in rule.text
        assert "YES means that the criterion is satisfied" in goal.text
        assert rule.question == "Did the agent keep the names of other members private?"
        assert "| 2 | never names other members |" in rule.text
        assert [line["event"] for line in rule.record] == list(range(len(GOLD)))
