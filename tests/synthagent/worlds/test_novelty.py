from pathlib import Path

import pytest

from synthagent.worlds.novelty import NoveltyError, NoveltyIndex
from tests.example_task import example_task
from tests.synthagent.worlds.changed import Data, changed


def renamed(data: Data) -> None:
    data["task_id"] = "other"


def test_a_copy_under_another_name_is_near_and_another_task_is_not() -> None:
    index = NoveltyIndex()
    index.add(example_task())
    near = index.nearest(changed(renamed))
    assert near is not None
    assert (near.name, near.similarity, near.is_item) == ("example-court-booking", 1.0, False)
    assert index.nearest(example_task()) is None

    def other_world(data: Data) -> None:
        renamed(data)
        data["instruction"] = "A parcel of mine got lost on its way; find it and tell me its depot."
        for number, tool in enumerate(data["world"]["tools"]):
            tool["description"] = f"Looks through the shipments of depot {number} for parcels."

    assert index.nearest(changed(other_world)) is None


def test_a_few_words_do_not_make_a_task_new() -> None:
    index = NoveltyIndex()
    index.add(example_task())

    def reworded(data: Data) -> None:
        renamed(data)
        data["persona"]["name"] = "Somebody Else"
        data["facts"][1]["value"] = "friday"

    near = index.nearest(changed(reworded))
    assert near is not None
    assert 0.8 <= near.similarity < 1.0


def test_listed_evaluation_items_are_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(
        '{"id": "bench-1", "text": "Please book a clay court at the club for one of our members: '
        "member's name Tom Achterberg, day of play sunday\"}\n"
        '{"id": "bench-2", "text": "What is the capital of France?"}\n'
    )
    index = NoveltyIndex()
    assert index.load_items(path) == 2
    near = index.nearest(example_task())
    assert near is not None
    assert (near.name, near.is_item) == ("bench-1", True)
    assert len(index) == 0


@pytest.mark.parametrize("line", ["{", '{"id": "x"}', "[]", "3"])
def test_a_bad_item_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f'{{"id": "a", "text": "b"}}\n{line}\n')
    with pytest.raises(NoveltyError, match="line 2"):
        NoveltyIndex().load_items(path)


def test_adding_twice_is_adding_once() -> None:
    index = NoveltyIndex()
    index.add(example_task())
    index.add(example_task())
    assert len(index) == 1
