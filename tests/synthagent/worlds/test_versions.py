"""State versions: a function of the world and the changes so far, and of nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.worlds.engine import compile_world
from synthagent.worlds.spec import World
from synthagent.worlds.versions import canonical, next_version, root_version, session_hash
from tests.example_task import example_task


def world(guidance: str = "") -> World:
    return World.model_validate(
        {
            "tools": [
                {
                    "name": "ask",
                    "description": "Asks.",
                    "input_schema": {"type": "object", "properties": {"about": {}}},
                    "behaviour": {"kind": "simulated", "guidance": guidance},
                }
            ]
        }
    )


def test_only_worlds_with_simulated_tools_have_versions() -> None:
    plain = compile_world(example_task().world)
    assert plain.root_version == ""
    assert session_hash(plain.initial_hash, plain.root_version) == plain.initial_hash


def test_the_root_is_the_worlds() -> None:
    assert root_version(world()) == root_version(world()) == compile_world(world()).root_version
    assert root_version(world()) != root_version(world("Knows all."))
    assert len(root_version(world())) == 32


def test_a_world_without_tables_opens() -> None:
    with compile_world(world()).open() as session:
        assert session.answer("ask", '{"about": 1}').error_code == "not_available"
        assert session.answer("ask", "[]").error_code == "malformed_arguments"


@given(st.lists(st.tuples(st.text(), st.text()), max_size=6), st.data())
def test_versions_tell_histories_apart(calls: list[tuple[str, str]], data: st.DataObject) -> None:
    other = data.draw(st.permutations(calls) | st.just(calls[:-1]))

    def after(history: list[tuple[str, str]]) -> str:
        version = root_version(world())
        for tool, arguments in history:
            version = next_version(version, tool, arguments)
        return version

    assert (after(calls) == after(other)) is (calls == other)
    assert (session_hash("0", after(calls)) == session_hash("0", after(other))) is (calls == other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"b": 1, "a": [2.0, {"d": 3.5, "c": null}]}', '{"a":[2,{"c":null,"d":3.5}],"b":1}'),
        ('{"a": 1e3}', '{"a":1000}'),
        ('{"a": "\\u00e9", "b": true}', '{"a":"é","b":true}'),
        ('{"a": 1e300}', '{"a":1e+300}'),
        ('{"a": "1.0"}', '{"a":"1.0"}'),
        ("{}", "{}"),
        ('{"b": -0, "a": 1000000000000000000}', '{"a":1000000000000000000,"b":0}'),
        ('{"a": 5.0, "n": [18446744073709551617]}', '{"a":5,"n":[18446744073709551617]}'),
        (f'{{"a": -{"9" * 300}}}', f'{{"a":-{"9" * 300}}}'),
        ('{"a": "12345678901234567890", "b": 1e30}', '{"a":"12345678901234567890","b":1e+30}'),
    ],
)
def test_one_value_has_one_spelling(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


@given(st.integers() | st.integers(2**63 - 9, 2**70), st.integers(-3, 3))
def test_integers_of_any_length_are_told_apart(number: int, more: int) -> None:
    one, other = (canonical(f'{{"about": [{n}]}}') for n in (number, number + more))
    assert (one == other) is (more == 0)
    assert json.loads(one) == {"about": [number]}


@pytest.mark.parametrize("depth", [199, 200, 250, 300, 1000, 5000])
def test_deep_arguments_are_refused_and_never_a_fault(depth: int) -> None:
    text = '{"about": ' + "[" * depth + "]" * depth + "}"
    with compile_world(world()).open() as session:
        code = session.answer("ask", text).error_code
    assert code == ("not_available" if depth < 199 else "malformed_arguments")


def test_the_deepest_arguments_that_are_taken_have_a_spelling() -> None:
    text = '{"about": ' + "[" * 198 + "]" * 198 + "}"
    with compile_world(world()).open() as session:
        assert session.answer("ask", text).error_code == "not_available"
    assert canonical(text) == text.replace(" ", "")
