"""The labelled set that comes along: as its script writes it, and judged at a real server."""

from collections import Counter
from itertools import groupby
from pathlib import Path

from examples.judge.__main__ import FOLDER, written
from services.rubric_judge.servicer import register
from synthagent.calibration import LabelledItem, asking, calibrate, read_labelled
from synthagent.server import running
from synthagent.settings import load_settings
from synthagent.worlds.criteria import JudgedCheck
from synthagent.worlds.episode import AgentTurn
from synthagent.worlds.fidelity import disorder
from synthagent.worlds.spec import Task
from tests.services.rubric_judge.judge_server import Asked, Said, judge_server, vote

ITEMS = read_labelled(FOLDER / "labelled.jsonl")


def question(item: LabelledItem) -> str:
    assert isinstance(item.subject, Task)
    by_id = {criterion.criterion_id: criterion for criterion in item.subject.criteria}
    check = by_id[item.criterion_id].check
    assert isinstance(check, JudgedCheck)
    return check.question


def last_words(item: LabelledItem) -> str:
    body = item.events[-2].body
    assert isinstance(body, AgentTurn)
    return body.content


def test_the_set_is_what_its_script_writes() -> None:
    source = (FOLDER / "scenarios.toml").read_text("utf-8")
    assert (FOLDER / "labelled.jsonl").read_text("utf-8") == written(source)


def test_the_set_is_balanced_in_every_question() -> None:
    assert len(ITEMS) >= 24
    for _, group in groupby(sorted(ITEMS, key=question), key=question):
        assert Counter(item.label for item in group) == {"YES": 1, "NO": 1}
    assert all(disorder(item.events) == "" for item in ITEMS)


async def test_the_set_calibrates_a_judge_at_a_real_server(tmp_path: Path) -> None:
    """A judge that errs once, abstains once and babbles once, and is right otherwise."""
    by_content = {(question(item), last_words(item)): item for item in ITEMS}
    assert len(by_content) == len(ITEMS)
    errs, abstains, babbles = (question(ITEMS[number]) for number in (0, 5, 10))

    def judge(asked: Asked) -> Said:
        item = by_content[asked.question, asked.record[-2]["text"]]
        odd = item.label == "YES"
        if odd and asked.question == errs:
            return vote("NO")
        if odd and asked.question == abstains:
            return vote("ABSTAIN")
        if odd and asked.question == babbles:
            return "I think so."
        return vote(item.label)

    async with judge_server(judge) as model:
        settings = load_settings(
            database_url=f"sqlite:///{tmp_path / 'synthagent.db'}",
            port=0,
            metrics_port=None,
            drain_seconds=0.1,
            judge={"base_url": model.base_url, "model": "judge"},
            judge_votes=1,
        )
        async with running(settings, [register]) as server:
            client = server.resources.client
            found = await calibrate(ITEMS, asking(client, run="first"))
            asked = len(model.asked)
            again = await calibrate(ITEMS, asking(client, run="first"))
            repeated = len(model.asked) - asked
    assert (found.items, found.decided, found.abstained, found.faults) == (28, 26, 1, 1)
    assert found.agreement == 25 / 26
    assert found.kappa is not None
    assert 0.9 < found.kappa < 1
    assert [item.label for item in found.disagreements] == ["YES"]
    assert again == found
    assert repeated == 2  # of what failed nothing is stored: its question and its repair
