"""JSON values as messages of the contract: what cannot be one is refused, and nothing breaks."""

from typing import Any

import pytest

from synthagent.api.v1 import task_pb2
from synthagent.convert import message_of
from synthagent.errors import InvalidInput


@pytest.mark.parametrize(
    "value",
    [
        {"\ud800": 1},
        {"task_id": "\ud800"},
        {"split": "\ud800"},
        {"world": {"tools": [{"behaviour\ud800": {}}]}},
        {"world": 5},
        {"seed": 10**400},
        {"seed": float("inf")},
        {"color": "red"},
        5,
        None,
        [],
    ],
)
def test_what_is_no_message_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="it is no Task") as caught:
        message_of(value, task_pb2.Task)
    caught.value.message.encode()  # can be printed


def test_a_value_becomes_its_message() -> None:
    made = message_of({"task_id": "t", "seed": "7"}, task_pb2.Task)
    assert made == task_pb2.Task(task_id="t", seed=7)
