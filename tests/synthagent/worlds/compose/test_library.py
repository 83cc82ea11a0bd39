"""The data files: what is shipped is complete, and what is wrong is refused with its place."""

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from synthagent.worlds import compose
from synthagent.worlds.compose.language import Line, Operation
from synthagent.worlds.compose.library import LibraryError, library, parse_domain, read
from synthagent.worlds.compose.vocabulary import Pool

FOLDER = Path(compose.__file__).parent.parent / "domains"


def _library_domain() -> dict[str, Any]:
    return deepcopy(read(FOLDER / "library.toml"))


def test_there_are_enough_archetypes_modules_and_domains() -> None:
    source = library()
    assert len(source.archetypes) >= 10
    assert len(source.modules) >= 5
    assert len(source.domains) >= 60


def test_domains_of_both_splits_dress_every_archetype() -> None:
    dressed: Counter[tuple[str, str]] = Counter()
    for domain in library().domains.values():
        for key in domain.dresses:
            dressed[key, domain.split] += 1
    for key in library().archetypes:
        assert dressed[key, "train"] >= 3, key
        assert dressed[key, "held_out"] >= 1, key


def test_every_level_has_at_least_one_scenario_of_every_archetype() -> None:
    for key, archetype in library().archetypes.items():
        for level in library().levels:
            assert any(level in one.levels for one in archetype.scenarios), f"{key}, {level}"


def test_every_archetype_has_tasks_that_cannot_be_done() -> None:
    for key, archetype in library().archetypes.items():
        assert any(not one.success for one in archetype.scenarios), key


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colour", "red", "neither a key of a domain nor an archetype"),
        ("title", None, "key title"),
        ("split", "exam", "key split"),
        ("motives", ["one"], "key motives"),
        ("colours", ["no name"] * 5, "does not hold {name}"),
        ("client", "guest", "is no noun"),
    ],
)
def test_a_wrong_key_of_a_domain_is_named(key: str, value: object, message: str) -> None:
    content = _library_domain()
    if value is None:
        del content[key]
    else:
        content[key] = value
    with pytest.raises(LibraryError, match=message) as caught:
        parse_domain("library", content, library().archetypes)
    assert "domains/library.toml" in str(caught.value)


def test_a_dress_without_what_its_archetype_needs_is_refused() -> None:
    content = _library_domain()
    del content["lending"]["place"]
    with pytest.raises(LibraryError, match=r"lending: place is missing"):
        parse_domain("library", content, library().archetypes)


def test_a_dress_with_what_its_archetype_has_no_use_for_is_refused() -> None:
    content = _library_domain()
    content["lending"]["level"] = {"noun": "level/levels", "unit": "bars", "range": [1, 50]}
    with pytest.raises(LibraryError, match="no use for level"):
        parse_domain("library", content, library().archetypes)


def test_labels_are_asked_for_where_an_archetype_needs_them() -> None:
    content = _library_domain()
    del content["lending"]["labels"]
    with pytest.raises(LibraryError, match="labels are missing"):
        parse_domain("library", content, library().archetypes)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "hotel.toml"
    file.write_text("split = train")
    with pytest.raises(LibraryError, match=r"hotel\.toml"):
        read(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": ["one", "two", "three", "four"]}, "at least 5"),
        ({"values": ["one", "two", "three", "four", "Five"]}, "lower case"),
        ({"values": ["lab", "lab annex", "three", "four", "five"]}, "stands twice or inside"),
        ({"values": ["one", "one", "three", "four", "five"]}, "stands twice or inside"),
        ({"say": "on it"}, "does not hold {value}"),
        ({"replies": ["It is {value}.", "{value}."]}, "come together"),
    ],
)
def test_a_wrong_pool_is_refused(change: dict[str, object], message: str) -> None:
    values = ["one", "two", "three", "four", "five"]
    pool = {"noun": "kind/kinds", "values": values, **change}
    with pytest.raises(ValueError, match=message):
        Pool.model_validate(pool)


def test_a_line_does_exactly_one_thing() -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        Line.model_validate({"require": "SELECT 1", "execute": "DELETE FROM item"})
    with pytest.raises(ValueError, match="need error and message"):
        Line.model_validate({"require": "SELECT 1"})
    with pytest.raises(ValueError, match="rows need a key"):
        Line.model_validate({"rows": {"item_id": "id"}, "from": "FROM item"})


def test_only_writes_change_anything() -> None:
    operation = {
        "category": "lookup",
        "names": "get item",
        "about": "Gets.",
        "params": [],
        "goal": "Got.",
        "program": [
            {"execute": "DELETE FROM item"},
            {"rows": {"item_id": "id"}, "key": "items", "from": "FROM item"},
        ],
    }
    with pytest.raises(ValueError, match="a write, and nothing else"):
        Operation.model_validate(operation)
