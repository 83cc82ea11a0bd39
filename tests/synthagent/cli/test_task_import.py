"""Files of tasks as they are read, before anything is sent."""

import json
from io import BytesIO

from google.protobuf.json_format import MessageToDict

from synthagent.cli.task_import import read_native
from synthagent.convert import task_to_proto
from synthagent.interchange import Imported, Rejection
from tests.example_task import example_task


def test_text_that_is_no_unicode_is_a_rejection_and_the_rest_is_read() -> None:
    """Found by fuzzing: a lone surrogate in a name broke the parser of messages."""
    good = MessageToDict(task_to_proto(example_task()))
    lines = [{**good, "\ud800": 1}, {**good, "split": "\ud800"}, {"task_id": "\ud800"}, good, 5]
    file = BytesIO("\n".join(json.dumps(line) for line in lines).encode())
    *rejected, imported, last = read_native(file)
    assert isinstance(imported, Imported)
    assert imported.task == example_task()
    for number, each in enumerate([*rejected, last], start=1):
        assert isinstance(each, Rejection)
        assert each.place == f"line {number if number < 4 else 5}"
        f"{each.item_id} {each.place} {each.reason}".encode()  # can be printed
