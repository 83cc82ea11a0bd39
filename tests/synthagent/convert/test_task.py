import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthagent.api.v1 import task_pb2
from synthagent.convert import split_from_proto, split_to_proto, task_from_proto, task_to_proto
from synthagent.errors import InvalidInput
from synthagent.worlds.content import task_digest
from synthagent.worlds.criteria import CalledCheck
from synthagent.worlds.spec import Certificate, Gate, GateResult, GateStatus, Task
from tests.example_task import example_task
from tests.synthagent.convert import strategies
from tests.synthagent.convert.refusals import attempt, decoded, messages, names_a_field

EXAMPLE = example_task().model_copy(
    update={
        "certificate": Certificate(
            engine_version="1",
            task_digest="ab",
            gates=(GateResult(gate=Gate.GOLD, status=GateStatus.PASSED),),
        )
    }
)
EXAMPLE_BYTES = task_to_proto(EXAMPLE).SerializeToString()


def through_wire(task: Task) -> Task:
    return task_from_proto(task_pb2.Task.FromString(task_to_proto(task).SerializeToString()))


@settings(deadline=None, max_examples=60)
@given(strategies.tasks(EXAMPLE))
def test_a_task_survives_the_wire_to_the_byte(task: Task) -> None:
    again = through_wire(task)
    assert again == task
    assert again.model_dump_json() == task.model_dump_json()
    assert task_digest(again) == task_digest(task)


def test_key_order_of_schemas_and_arguments_survives() -> None:
    schema = {"type": "object", "properties": {"zeta": {}, "alpha": {}}}
    tool = EXAMPLE.world.tools[0].model_copy(update={"input_schema": schema})
    world = EXAMPLE.world.model_copy(update={"tools": (tool, *EXAMPLE.world.tools[1:])})
    again = through_wire(EXAMPLE.model_copy(update={"world": world}))
    properties = again.world.tools[0].input_schema["properties"]
    assert isinstance(properties, dict)
    assert list(properties) == ["zeta", "alpha"]


@settings(deadline=None, max_examples=100)
@given(messages(task_pb2.Task))
def test_any_message_gives_a_task_or_a_named_field(message: task_pb2.Task) -> None:
    outcome = attempt(lambda: task_from_proto(message))
    if isinstance(outcome, InvalidInput):
        assert names_a_field(outcome, "task")
    else:
        assert through_wire(outcome) == outcome


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(EXAMPLE_BYTES) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_task_is_a_task_or_a_named_field(position: int, patch: bytes) -> None:
    damaged = EXAMPLE_BYTES[:position] + patch + EXAMPLE_BYTES[position + len(patch) :]
    message = decoded(task_pb2.Task, damaged)
    outcome = attempt(lambda: task_from_proto(message))
    if isinstance(outcome, InvalidInput):
        assert names_a_field(outcome, "task")
    else:
        assert through_wire(outcome) == outcome


def with_change(statement: str) -> task_pb2.Task:
    message = task_to_proto(EXAMPLE)
    exec(statement, {"message": message})
    return message


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ("message.split = 0", "task.split"),
        ("message.split = 99", "task.split"),
        ("message.task_id = 'Not an id'", "task.task_id"),
        ("message.instruction = ''", "task.instruction"),
        ("message.ClearField('persona')", "task.persona"),
        ("message.persona.voice = '!'", "task.persona.voice"),
        ("message.ClearField('world')", "task.world"),
        ("message.ClearField('restriction')", "task.restriction"),
        ("message.restriction.ClearField('probe')", "task"),
        ("del message.gold_plans[:]", "task"),
        ("del message.world.tools[:]", "task.world.tools"),
        ("message.world.tables[0].rows_json = '[1'", "task.world.tables[0].rows_json"),
        ("message.world.tables[0].rows_json = '{}'", "task.world.tables[0].rows_json"),
        ("message.world.tables[0].rows_json = '[[1]]'", "task.world.tables[0]"),
        (
            "message.world.tables[0].rows_json = '[[1,[],2]]'",
            "task.world.tables[0].rows_json[0][1]",
        ),
        ("message.world.tables[1].columns[0].type = 0", "task.world.tables[1].columns[0].type"),
        ("message.world.tables[1].columns[0].name = 'A'", "task.world.tables[1].columns[0].name"),
        ("message.world.tools[2].input_schema_json = ''", "task.world.tools[2].input_schema_json"),
        ("message.world.tools[2].input_schema_json = '3'", "task.world.tools[2].input_schema_json"),
        (
            "message.world.tools[0].output_schema_json = '['",
            "task.world.tools[0].output_schema_json",
        ),
        ("message.world.tools[0].ClearField('sql')", "task.world.tools[0]"),
        ("message.world.tools[0].builtin.name = ''", "task.world.tools[0].builtin.name"),
        (
            "message.world.tools[2].sql.statements[1].kind = 0",
            "task.world.tools[2].sql.statements[1].kind",
        ),
        (
            "message.world.tools[0].sql.statements[0].shape = 7",
            "task.world.tools[0].sql.statements[0].shape",
        ),
        ("del message.world.tools[0].sql.statements[:]", "task.world.tools[0].sql.statements"),
        ("message.facts[1].value_json = 'null'", "task.facts[1].value_json"),
        ("message.facts[1].value_json = 'sunday'", "task.facts[1].value_json"),
        ("del message.facts[0].ask_terms[:]", "task.facts[0].ask_terms"),
        (
            "message.gold_plans[0].steps[2].arguments_json = '[]'",
            "task.gold_plans[0].steps[2].arguments_json",
        ),
        ("message.gold_plans[0].answer = ''", "task.gold_plans[0].answer"),
        ("message.criteria[0].section = 0", "task.criteria[0].section"),
        ("message.criteria[1].weight = -1", "task.criteria[1].weight"),
        ("message.criteria[1].weight = float('nan')", "task.criteria[1].weight"),
        ("message.criteria[1].ClearField('called')", "task.criteria[1]"),
        ("del message.criteria[1].called.any_of[:]", "task.criteria[1].called.any_of"),
        (
            "message.criteria[1].called.any_of[0].arguments[0].equals_json = 'clay'",
            "task.criteria[1].called.any_of[0].arguments[0].equals_json",
        ),
        (
            "message.criteria[4].answer.values_json[0] = ''",
            "task.criteria[4].answer.values_json[0]",
        ),
        ("message.certificate.gates[0].gate = 0", "task.certificate.gates[0].gate"),
        ("message.certificate.gates[0].status = 0", "task.certificate.gates[0].status"),
        ("message.restriction.criterion_id = 'nowhere'", "task"),
    ],
)
def test_what_the_contract_refuses_names_its_field(statement: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        task_from_proto(with_change(statement))
    assert refusal.value.field == field
    assert field in refusal.value.message


@pytest.mark.parametrize("text", ["[" * 5000, '{"a":' * 900 + "1" + "}" * 900])
def test_deep_json_is_refused_or_kept_without_harm(text: str) -> None:
    message = task_to_proto(EXAMPLE)
    message.world.tools[0].input_schema_json = text
    with pytest.raises(InvalidInput) as refusal:
        task_from_proto(message)
    assert refusal.value.field == "task.world.tools[0].input_schema_json"


def test_defaults_of_the_contract() -> None:
    message = task_to_proto(EXAMPLE)
    message.criteria[1].weight = 0
    message.criteria[1].called.min_count = 0
    message.world.tables[0].rows_json = ""
    task = task_from_proto(message)
    assert task.criteria[1].weight == 1.0
    check = task.criteria[1].check
    assert isinstance(check, CalledCheck)
    assert check.min_count == 1
    assert task.world.tables[0].rows == ()


def test_the_certificate_is_optional() -> None:
    assert through_wire(example_task()).certificate is None


def test_a_split_filter_may_be_unspecified() -> None:
    assert split_to_proto(None) == task_pb2.SPLIT_UNSPECIFIED
    assert split_from_proto(task_pb2.SPLIT_HELD_OUT) == "held_out"
