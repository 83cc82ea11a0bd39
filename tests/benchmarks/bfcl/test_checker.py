"""Hand-made answers before the real checker: right ones, wrong ones, and calls that harm."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bfcl.__main__ import Request, evaluate
from benchmarks.bfcl.models import Conversation, Limits, ModelFault, Reply
from benchmarks.bfcl.process import BfclFault, checker

pytestmark = pytest.mark.bfcl

TRIANGLE = {"calculate_triangle_area": '{"base": 10, "height": 5}'}
SIDES = '{"side1": 5, "side2": 4, "side3": 3}'

# What the first multi-turn item asks for: four requests about files.
FILES: list[list[Any]] = [
    [
        [{"cd": '{"folder": "document"}'}],
        [{"mkdir": '{"dir_name": "temp"}'}],
        [{"mv": '{"source": "final_report.pdf", "destination": "temp"}'}],
        "Moved.",
    ],
    [
        [{"cd": '{"folder": "temp"}'}],
        [{"grep": '{"file_name": "final_report.pdf", "pattern": "budget analysis"}'}],
        "Found.",
    ],
    [[{"sort": '{"file_name": "final_report.pdf"}'}], "Sorted."],
    [
        [{"cd": '{"folder": ".."}'}],
        [{"mv": '{"source": "previous_report.pdf", "destination": "temp"}'}],
        [{"cd": '{"folder": "temp"}'}],
        [{"diff": '{"file_name1": "final_report.pdf", "file_name2": "previous_report.pdf"}'}],
        "Compared.",
    ],
]


@pytest.mark.parametrize(
    ("category", "result", "error"),
    [
        ("simple_python_0", [TRIANGLE], ""),
        ("simple_python_0", [{"calculate_triangle_area": '{"base": 10}'}], "missing_required"),
        ("simple_python_0", [{"calculate_triangle_area": '{"base": 10, "height": 6}'}], "value"),
        ("simple_python_0", [{"area": '{"base": 10, "height": 5}'}], "wrong_func_name"),
        ("simple_python_0", [TRIANGLE, TRIANGLE], "wrong_count"),
        ("simple_python_0", "The area is 25.", "decoder_failed"),
        ("multiple_0", [{"triangle_properties.get": SIDES}], ""),
        ("multiple_0", [{"circle_properties.get": '{"radius": 3}'}], "wrong_func_name"),
        ("irrelevance_0", "None of my tools can do that.", ""),
        ("irrelevance_0", [{"determine_body_mass_index": '{"weight": 1, "height": 2}'}], "decoder"),
        ("multi_turn_base_0", FILES, ""),
        ("multi_turn_base_0", [*FILES[:3], ["Compared."]], "empty_turn"),
        ("multi_turn_base_0", FILES[:2], "force_terminated"),
        ("multi_turn_base_0", [FILES[0][:2], *FILES[1:]], "state"),
    ],
)
async def test_the_checker_tells_right_from_wrong(
    tmp_path: Path, category: str, result: object, error: str
) -> None:
    name = category.rpartition("_")[0]
    async with checker(tmp_path / "log") as process:
        wrong = await process.score(name, [{"id": category, "result": result}], tmp_path / "scores")
    if error:
        assert error in wrong[category]
    else:
        assert wrong == {}


async def test_tools_keep_their_state_and_run_nothing_else(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    async with checker(tmp_path / "log") as process:

        async def run(episode: str, **calls: str) -> str:
            (said,) = await process.execute(
                episode, "multi_turn_base_0", [{name: text} for name, text in calls.items()]
            )
            return said

        assert "document" in await run("one", cd='{"folder": "document"}')
        assert "final_report.pdf" in await run("one", ls="{}")
        assert "final_report.pdf" not in await run("two", ls="{}")  # another episode
        for name, text in (
            ("open", f'{{"file": "{harm}", "mode": "w"}}'),
            (f"open('{harm}', 'w') or ls", "{}"),
            ("ls", f'{{"a=open({str(harm)!r}, mode=1)": 1}}'),
            ("ls", '{"__class__": 1}'),
        ):
            assert "is not defined" in await run("one", **{name: text})
        assert not harm.exists()
        with pytest.raises(BfclFault, match="KeyError"):
            await process.execute("one", "multi_turn_base_9999", [{"ls": "{}"}])
        with pytest.raises(BfclFault, match="items"):
            await process.items(["no_such_category"])
        assert len((await process.items(["multiple"])).by_category["multiple"]) == 200


class Scripted:
    """A model that says what it is told to, item by item; None is a fault."""

    identity = "scripted"
    places = 2

    def __init__(self, texts: dict[str, list[str] | None]) -> None:
        self.texts = texts
        self.asked: list[str] = []

    @asynccontextmanager
    async def converse(self, key: str) -> AsyncIterator[Conversation]:
        yield _Scripted(self)


class _Scripted:
    def __init__(self, model: Scripted) -> None:
        self._model = model
        self._left: list[str] = []

    async def begin(self, system: str, user: str) -> Reply:
        self._model.asked.append(user)
        (found,) = (said for said in self._model.texts if said in user)
        texts = self._model.texts[found]
        if texts is None:
            raise ModelFault("away")
        self._left = list(texts)
        return await self.go_on("user", user)

    async def go_on(self, role: str, content: str) -> Reply:
        return Reply(self._left.pop(0), 5)


def _as_text(step: Any) -> str:
    if isinstance(step, str):
        return f"<answer>{step}</answer>"
    ((name, arguments),) = step[0].items()
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


async def test_an_evaluation_goes_on_and_a_fault_is_no_wrong_answer(tmp_path: Path) -> None:
    categories = ["simple_python", "multi_turn_base"]
    async with checker(tmp_path / "log") as process:
        known = await process.items(categories)
    simple = [item for item in known.by_category["simple_python"] if item.item_id.endswith("_0")]
    turns = known.by_category["multi_turn_base"][0]
    model = Scripted(
        {
            simple[0].turns[0]: None,
            turns.turns[0]: [_as_text(step) for turn in FILES for step in turn],
        }
    )

    @asynccontextmanager
    async def opened(_: Limits) -> AsyncIterator[Scripted]:
        yield model

    request = Request(categories=categories, folder=tmp_path / "out", command="test")
    chosen = {"simple_python": simple, "multi_turn_base": [turns]}
    first = await evaluate(request, opened, Limits(), choose=lambda name, _: chosen[name])
    assert first.scores["multi_turn_base"].accuracy == 1.0
    assert first.scores["simple_python"].accuracy is None
    assert first.scores["simple_python"].missing == 1
    assert first.faults == {"simple_python_0": "away"}
    model.texts[simple[0].turns[0]] = [_as_text([TRIANGLE])]
    model.asked.clear()
    second = await evaluate(request, opened, Limits(), choose=lambda name, _: chosen[name])
    assert model.asked == [simple[0].turns[0]]
    assert second.scores["simple_python"].accuracy == 1.0
    assert second.bfcl_eval == "2026.3.23"
    assert not second.faults
