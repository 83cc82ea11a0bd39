from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.bfcl.__main__ import Request, app, draw, named
from benchmarks.bfcl.answers import Answer, AnswerFolder, Settings
from benchmarks.bfcl.process import Item, checker
from benchmarks.bfcl.scores import standard_error, summarize
from synthagent.errors import Conflict, InvalidInput, PreconditionFailed

SETTINGS = Settings(model="m", format="f", bfcl_eval="1", turn_tokens=8, context_tokens=64)


def _answer(number: int, **more: object) -> Answer:
    values = {"category": "simple_python", "result": "x", "texts": [], "tokens": 3, "seconds": 0.1}
    return Answer.model_validate({"id": f"simple_python_{number}", **values, **more})


def test_answers_are_found_again_and_half_a_line_is_forgotten(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, SETTINGS)
    folder.add(_answer(1))
    folder.add(_answer(2))
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "simple_py')
    again = AnswerFolder(tmp_path, SETTINGS)
    assert list(again.by_id) == ["simple_python_1", "simple_python_2"]
    again.add(_answer(3))
    assert len(AnswerFolder(tmp_path, SETTINGS).by_id) == 3


def test_a_folder_belongs_to_one_model(tmp_path: Path) -> None:
    AnswerFolder(tmp_path, SETTINGS)
    with pytest.raises(Conflict, match="another model, turn_tokens"):
        AnswerFolder(tmp_path, SETTINGS.model_copy(update={"model": "n", "turn_tokens": 9}))


def test_a_score_counts_only_what_was_answered() -> None:
    answers = [_answer(number) for number in range(4)] + [_answer(4, stopped="steps")]
    found = summarize(answers, {"simple_python_1": "value_error:string"}, asked=7)
    assert (found.n, found.correct, found.accuracy, found.missing) == (5, 4, 0.8, 2)
    assert found.sem == pytest.approx(0.2)  # sqrt(0.8 * 0.2 / 4)
    assert (found.stopped, found.tokens) == ({"steps": 1}, 15)
    nothing = summarize([], {}, asked=2)
    assert (nothing.accuracy, nothing.sem, nothing.missing) == (None, None, 2)


def test_one_answer_has_no_standard_error() -> None:
    assert standard_error(1, 1) is None
    assert standard_error(3, 3) == 0.0


def test_two_models_get_the_same_items(tmp_path: Path) -> None:
    items = [Item(f"multiple_{number}", "multiple", ("?",), ()) for number in range(50)]
    request = Request(categories=["multiple"], folder=tmp_path, command="", limit=5, seed=3)
    drawn = draw(items, request)
    assert drawn == draw(items, request)
    assert len(drawn) == 5
    assert drawn == sorted(drawn, key=items.index)
    assert drawn != items[:5]
    assert draw(items, Request(categories=["multiple"], folder=tmp_path, command="")) == items


def test_an_unknown_category_is_told() -> None:
    assert named(["simple", "multi_turn_base"]) == ["simple_python", "multi_turn_base"]
    with pytest.raises(InvalidInput, match="no category 'parallel'"):
        named(["parallel"])


async def test_a_missing_environment_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="make bfcl"):
        async with checker(tmp_path / "log", tmp_path / "python"):
            pass


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--categories", "parallel"), "no category 'parallel'"),
        (("--model", "nowhere"), "neither a folder nor one of"),
        (("--base-url", "http://127.0.0.1:9/v1"), "--served-model"),
    ],
)
def test_a_wrong_request_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncat > /dev/null\n")  # a checker that is never asked
    python.chmod(0o755)
    monkeypatch.setenv("BFCL_PYTHON", str(python))
    done = CliRunner().invoke(app, ["--folder", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2
    assert told in done.stderr
