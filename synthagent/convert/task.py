"""Tasks and their parts, both ways. One pair of functions a message, in the contract's order."""

from __future__ import annotations

from typing import Any

from synthagent.api.v1 import task_pb2 as pb
from synthagent.convert.parts import (
    EnumTable,
    build,
    chosen,
    json_from_text,
    json_object_from_text,
    json_to_text,
    required,
)
from synthagent.convert.rubric import criterion_from_proto, criterion_to_proto
from synthagent.errors import InvalidInput
from synthagent.worlds import spec

SPLIT = EnumTable(spec.Split, pb.Split, "SPLIT")
GATE = EnumTable(spec.Gate, pb.Gate, "GATE")
_GATE_STATUS = EnumTable(spec.GateStatus, pb.GateStatus, "GATE_STATUS")
_COLUMN_TYPE = EnumTable(spec.ColumnType, pb.ColumnType, "COLUMN_TYPE")
_STATEMENT_KIND = EnumTable(spec.StatementKind, pb.StatementKind, "STATEMENT_KIND")
_RETURN_SHAPE = EnumTable(spec.ReturnShape, pb.ReturnShape, "RETURN_SHAPE")


def table_to_proto(table: spec.Table) -> pb.Table:
    """The message of a table."""
    return pb.Table(
        name=table.name,
        columns=[
            pb.Column(
                name=column.name,
                type=_COLUMN_TYPE.to_number(column.type),
                primary_key=column.primary_key,
                nullable=column.nullable,
            )
            for column in table.columns
        ],
        rows_json=json_to_text(table.rows),
    )


def table_from_proto(message: pb.Table, path: str) -> spec.Table:
    """The table of a message. Raises InvalidInput."""
    columns = tuple(
        build(
            f"{path}.columns[{number}]",
            spec.Column,
            name=column.name,
            type=_COLUMN_TYPE.from_number(column.type, f"{path}.columns[{number}].type"),
            primary_key=column.primary_key,
            nullable=column.nullable,
        )
        for number, column in enumerate(message.columns)
    )
    rows: Any = json_from_text(message.rows_json or "[]", f"{path}.rows_json")
    return build(path, spec.Table, name=message.name, columns=columns, rows=rows)


def statement_to_proto(statement: spec.Statement) -> pb.Statement:
    """The message of a statement."""
    return pb.Statement(
        kind=_STATEMENT_KIND.to_number(statement.kind),
        sql=statement.sql,
        error_code=statement.error_code,
        error_message=statement.error_message,
        shape=_RETURN_SHAPE.to_number(statement.shape),
        key=statement.key,
    )


def statement_from_proto(message: pb.Statement, path: str) -> spec.Statement:
    """The statement of a message. Raises InvalidInput."""
    return build(
        path,
        spec.Statement,
        kind=_STATEMENT_KIND.from_number(message.kind, f"{path}.kind"),
        sql=message.sql,
        error_code=message.error_code,
        error_message=message.error_message,
        shape=_RETURN_SHAPE.from_optional(message.shape, f"{path}.shape"),
        key=message.key,
    )


def tool_to_proto(tool: spec.Tool) -> pb.Tool:
    """The message of a tool."""
    message = pb.Tool(
        name=tool.name,
        description=tool.description,
        input_schema_json=json_to_text(tool.input_schema),
        output_schema_json="" if tool.output_schema is None else json_to_text(tool.output_schema),
        category=tool.category,
    )
    behaviour = tool.behaviour
    if isinstance(behaviour, spec.SqlProgram):
        message.sql.statements.extend(statement_to_proto(s) for s in behaviour.statements)
    elif isinstance(behaviour, spec.SimulatedBehaviour):
        message.simulated.guidance = behaviour.guidance
        message.simulated.changes_state = behaviour.changes_state
        message.simulated.SetInParent()
    else:
        message.builtin.name = behaviour.name
    return message


def tool_from_proto(message: pb.Tool, path: str) -> spec.Tool:
    """The tool of a message. Raises InvalidInput."""
    output = message.output_schema_json
    return build(
        path,
        spec.Tool,
        name=message.name,
        description=message.description,
        input_schema=json_object_from_text(message.input_schema_json, f"{path}.input_schema_json"),
        output_schema=json_object_from_text(output, f"{path}.output_schema_json")
        if output
        else None,
        category=message.category,
        behaviour=_behaviour_from_proto(message, path),
    )


def _behaviour_from_proto(message: pb.Tool, path: str) -> spec.Behaviour:
    name = chosen(message, "behaviour", path)
    place = f"{path}.{name}"
    if name == "sql":
        statements = tuple(
            statement_from_proto(statement, f"{place}.statements[{number}]")
            for number, statement in enumerate(message.sql.statements)
        )
        return build(place, spec.SqlProgram, statements=statements)
    if name == "simulated":
        return build(
            place,
            spec.SimulatedBehaviour,
            guidance=message.simulated.guidance,
            changes_state=message.simulated.changes_state,
        )
    return build(place, spec.BuiltinBehaviour, name=message.builtin.name)


def world_to_proto(world: spec.World) -> pb.World:
    """The message of a world."""
    return pb.World(
        tables=[table_to_proto(table) for table in world.tables],
        tools=[tool_to_proto(tool) for tool in world.tools],
    )


def world_from_proto(message: pb.World, path: str) -> spec.World:
    """The world of a message. Raises InvalidInput."""
    return build(
        path,
        spec.World,
        tables=tuple(
            table_from_proto(table, f"{path}.tables[{number}]")
            for number, table in enumerate(message.tables)
        ),
        tools=tuple(
            tool_from_proto(tool, f"{path}.tools[{number}]")
            for number, tool in enumerate(message.tools)
        ),
    )


def fact_to_proto(fact: spec.Fact) -> pb.Fact:
    """The message of a fact."""
    return pb.Fact(
        fact_id=fact.fact_id,
        label=fact.label,
        value_json=json_to_text(fact.value),
        ask_terms=fact.ask_terms,
        replies=fact.replies,
        questions=fact.questions,
    )


def fact_from_proto(message: pb.Fact, path: str) -> spec.Fact:
    """The fact of a message. Raises InvalidInput."""
    value = json_from_text(message.value_json, f"{path}.value_json")
    if not isinstance(value, str | int | float):
        raise InvalidInput(
            f"{path}.value_json must be a JSON string, number or boolean.",
            field=f"{path}.value_json",
        )
    return build(
        path,
        spec.Fact,
        fact_id=message.fact_id,
        label=message.label,
        value=value,
        ask_terms=tuple(message.ask_terms),
        replies=tuple(message.replies),
        questions=tuple(message.questions),
    )


def plan_to_proto(plan: spec.Plan) -> pb.Plan:
    """The message of a plan."""
    return pb.Plan(
        plan_id=plan.plan_id,
        steps=[
            pb.PlanStep(
                step_id=step.step_id,
                tool=step.tool,
                arguments_json=json_to_text(step.arguments),
                expected_error_code=step.expected_error_code,
            )
            for step in plan.steps
        ],
        answer=plan.answer,
    )


def plan_from_proto(message: pb.Plan, path: str) -> spec.Plan:
    """The plan of a message. Raises InvalidInput."""
    steps = tuple(
        build(
            f"{path}.steps[{number}]",
            spec.PlanStep,
            step_id=step.step_id,
            tool=step.tool,
            arguments=json_object_from_text(
                step.arguments_json, f"{path}.steps[{number}].arguments_json"
            ),
            expected_error_code=step.expected_error_code,
        )
        for number, step in enumerate(message.steps)
    )
    return build(path, spec.Plan, plan_id=message.plan_id, steps=steps, answer=message.answer)


def restriction_from_proto(message: pb.Restriction, path: str) -> spec.Restriction:
    """The restriction of a message. Raises InvalidInput."""
    return build(
        path,
        spec.Restriction,
        text=message.text,
        reason=message.reason,
        criterion_id=message.criterion_id,
        probe=plan_from_proto(message.probe, f"{path}.probe")
        if message.HasField("probe")
        else None,
    )


def persona_to_proto(persona: spec.Persona) -> pb.Persona:
    """The message of a persona."""
    return pb.Persona(**persona.model_dump())


def persona_from_proto(message: pb.Persona, path: str) -> spec.Persona:
    """The persona of a message. Raises InvalidInput."""
    return build(
        path,
        spec.Persona,
        name=message.name,
        role=message.role,
        description=message.description,
        voice=message.voice,
    )


def origin_from_proto(message: pb.Origin, path: str) -> spec.Origin:
    """The origin of a message. Raises InvalidInput."""
    return build(
        path,
        spec.Origin,
        format=message.format,
        item_id=message.item_id,
        texts=dict(message.texts),
    )


def certificate_to_proto(certificate: spec.Certificate) -> pb.Certificate:
    """The message of a certificate."""
    return pb.Certificate(
        engine_version=certificate.engine_version,
        task_digest=certificate.task_digest,
        gates=[
            pb.GateResult(
                gate=GATE.to_number(result.gate),
                status=_GATE_STATUS.to_number(result.status),
                detail=result.detail,
            )
            for result in certificate.gates
        ],
    )


def certificate_from_proto(message: pb.Certificate, path: str = "certificate") -> spec.Certificate:
    """The certificate of a message. Raises InvalidInput."""
    return build(
        path,
        spec.Certificate,
        engine_version=message.engine_version,
        task_digest=message.task_digest,
        gates=tuple(
            build(
                f"{path}.gates[{number}]",
                spec.GateResult,
                gate=GATE.from_number(result.gate, f"{path}.gates[{number}].gate"),
                status=_GATE_STATUS.from_number(result.status, f"{path}.gates[{number}].status"),
                detail=result.detail,
            )
            for number, result in enumerate(message.gates)
        ),
    )


def split_to_proto(split: spec.Split | None) -> pb.Split.ValueType:
    """The number of a split; unspecified for None, which in a filter means any."""
    return SPLIT.to_number(split)


def split_from_proto(number: int, path: str = "split") -> spec.Split:
    """The split of a number that must be given. Raises InvalidInput."""
    return SPLIT.from_number(number, path)


def task_to_proto(task: spec.Task) -> pb.Task:
    """The message of a task, with its certificate where it has one."""
    message = pb.Task(
        task_id=task.task_id,
        split=split_to_proto(task.split),
        domain=task.domain,
        difficulty=task.difficulty,
        family=task.family,
        teacher=task.teacher,
        seed=task.seed,
        persona=persona_to_proto(task.persona),
        instruction=task.instruction,
        world=world_to_proto(task.world),
        facts=[fact_to_proto(fact) for fact in task.facts],
        restriction=pb.Restriction(
            text=task.restriction.text,
            reason=task.restriction.reason,
            criterion_id=task.restriction.criterion_id,
            probe=None if task.restriction.probe is None else plan_to_proto(task.restriction.probe),
        ),
        gold_plans=[plan_to_proto(plan) for plan in task.gold_plans],
        criteria=[criterion_to_proto(criterion) for criterion in task.criteria],
        background=task.background,
        workflow=task.workflow,
        origin=None if task.origin is None else pb.Origin(**task.origin.model_dump()),
    )
    if task.certificate is not None:
        message.certificate.CopyFrom(certificate_to_proto(task.certificate))
    return message


def task_from_proto(message: pb.Task, path: str = "task") -> spec.Task:
    """The task of a message; its certificate is not verified. Raises InvalidInput."""
    return build(
        path,
        spec.Task,
        task_id=message.task_id,
        split=SPLIT.from_number(message.split, f"{path}.split"),
        domain=message.domain,
        difficulty=message.difficulty,
        family=message.family,
        teacher=message.teacher,
        seed=message.seed,
        persona=persona_from_proto(message.persona, required(message, "persona", path)),
        instruction=message.instruction,
        world=world_from_proto(message.world, required(message, "world", path)),
        facts=tuple(
            fact_from_proto(fact, f"{path}.facts[{number}]")
            for number, fact in enumerate(message.facts)
        ),
        restriction=restriction_from_proto(
            message.restriction, required(message, "restriction", path)
        ),
        gold_plans=tuple(
            plan_from_proto(plan, f"{path}.gold_plans[{number}]")
            for number, plan in enumerate(message.gold_plans)
        ),
        criteria=tuple(
            criterion_from_proto(criterion, f"{path}.criteria[{number}]")
            for number, criterion in enumerate(message.criteria)
        ),
        certificate=certificate_from_proto(message.certificate, f"{path}.certificate")
        if message.HasField("certificate")
        else None,
        background=message.background,
        workflow=tuple(message.workflow),
        origin=origin_from_proto(message.origin, f"{path}.origin")
        if message.HasField("origin")
        else None,
    )
