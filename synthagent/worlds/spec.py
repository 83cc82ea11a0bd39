"""The values that a task is made of: world, tools, facts, restriction, plans and rubric.

Owns the shape of a task and the rules that one value alone can break (names, references, required
fields). Values are frozen and valid by construction; what needs an engine to find out (does the SQL
compile, does the plan succeed) belongs to `certify`. One value here mirrors one message of
`proto/synthagent/api/v1/task.proto`, whose comments define each field.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field, JsonValue, model_validator

from synthagent.worlds.criteria import AskedCheck, CalledCheck, Criterion, Section
from synthagent.worlds.values import Name, Scalar, Sql, TaskId, ToolName, Value


class Split(StrEnum):
    """What a task may be used for. Splits are disjoint by domain."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class ColumnType(StrEnum):
    """Storage class of a column."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"


class StatementKind(StrEnum):
    """What a statement of a tool's program does."""

    REQUIRE = "require"
    EXECUTE = "execute"
    RETURN = "return"


class ReturnShape(StrEnum):
    """How the rows of a RETURN statement become JSON."""

    ROW = "row"
    ROWS = "rows"


class Gate(StrEnum):
    """The gates of certification, in the order in which they run."""

    COMPILES = "compiles"
    GOLD = "gold"
    NO_OP = "no_op"
    NECESSITY = "necessity"
    WRONG_ENTITY = "wrong_entity"
    RESTRICTION = "restriction"
    INFORMATION_GAP = "information_gap"
    DETERMINISM = "determinism"
    NOVELTY = "novelty"


class GateStatus(StrEnum):
    """How one gate ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"


class Column(Value):
    """A column of a table."""

    name: Name
    type: ColumnType
    primary_key: bool = False
    nullable: bool = False


class Table(Value):
    """A table with its seed rows, one scalar per column."""

    name: Name
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[tuple[Scalar, ...], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Table:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name}: a column name is used twice")
        if sum(column.primary_key for column in self.columns) > 1:
            raise ValueError(f"table {self.name}: more than one primary key column")
        for number, row in enumerate(self.rows):
            if len(row) != len(names):
                raise ValueError(
                    f"table {self.name}, row {number}: {len(row)} values for {len(names)} columns"
                )
        return self


class Statement(Value):
    """One statement of a declarative tool."""

    kind: StatementKind
    sql: Sql
    error_code: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$", max_length=63)
    error_message: str = Field("", max_length=1000)
    shape: ReturnShape | None = None
    key: str = Field("", pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$", max_length=63)

    @model_validator(mode="after")
    def _check(self) -> Statement:
        if (self.shape is not None) != (self.kind is StatementKind.RETURN):
            raise ValueError("a RETURN statement needs a shape, and no other statement has one")
        if (self.key != "") != (self.shape is ReturnShape.ROWS):
            raise ValueError("shape ROWS needs a key, and nothing else has one")
        fails = self.kind is StatementKind.REQUIRE or self.shape is ReturnShape.ROW
        if fails and not self.error_code:
            raise ValueError("REQUIRE and RETURN of one ROW need an error_code")
        return self


class SqlProgram(Value):
    """Behaviour by an ordered program over the world's tables."""

    kind: Literal["sql"] = "sql"
    statements: tuple[Statement, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> SqlProgram:
        kinds = [statement.kind for statement in self.statements]
        if kinds[-1] is not StatementKind.RETURN or kinds.count(StatementKind.RETURN) != 1:
            raise ValueError("a program has exactly one RETURN, and it is the last statement")
        return self


class SimulatedBehaviour(Value):
    """Behaviour by a model, through the response ledger."""

    kind: Literal["simulated"] = "simulated"
    guidance: str = ""
    changes_state: bool = False


class BuiltinBehaviour(Value):
    """Behaviour by code of the host, chosen by name."""

    kind: Literal["builtin"] = "builtin"
    name: Name


Behaviour = Annotated[
    SqlProgram | SimulatedBehaviour | BuiltinBehaviour, Field(discriminator="kind")
]


class Tool(Value):
    """A tool that the agent may call."""

    name: ToolName
    description: str = Field(max_length=1000)
    input_schema: dict[str, JsonValue]
    output_schema: dict[str, JsonValue] | None = None
    category: str = ""
    behaviour: Behaviour

    @property
    def changes_state(self) -> bool:
        """Whether a call can change the state: it has an EXECUTE, or is simulated as such."""
        if isinstance(self.behaviour, SqlProgram):
            return any(s.kind is StatementKind.EXECUTE for s in self.behaviour.statements)
        return isinstance(self.behaviour, SimulatedBehaviour) and self.behaviour.changes_state


class World(Value):
    """The tables and tools of a task."""

    tables: tuple[Table, ...] = ()
    tools: tuple[Tool, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> World:
        for what, names in (
            ("table", [table.name for table in self.tables]),
            ("tool", [tool.name for tool in self.tools]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} name is used twice")
        return self

    def tool(self, name: str) -> Tool | None:
        """The tool of that name, or None."""
        return next((tool for tool in self.tools if tool.name == name), None)


class Fact(Value):
    """Something that only the user knows."""

    fact_id: Name
    label: str = Field(min_length=1)
    value: str | int | float | bool
    ask_terms: tuple[str, ...] = Field(min_length=1)
    replies: tuple[str, ...] = Field(min_length=1)
    questions: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Fact:
        for reply in self.replies:
            if "{value}" not in reply:
                raise ValueError(f"fact {self.fact_id}: a reply without {{value}}: {reply!r}")
        return self

    @property
    def spoken(self) -> str:
        """The value as the user says it: strings as they are, other scalars as JSON."""
        return self.value if isinstance(self.value, str) else orjson.dumps(self.value).decode()


class PlanStep(Value):
    """One call of a plan. Arguments may hold {"$fact": id} and {"$step": id, "path": pointer}."""

    step_id: Name
    tool: ToolName
    arguments: dict[str, JsonValue]
    expected_error_code: str = ""

    def references(self, kind: Literal["$fact", "$step"]) -> tuple[str, ...]:
        """Identifiers of the facts or earlier steps that the arguments refer to."""
        return tuple(
            str(value[kind])
            for value in self.arguments.values()
            if isinstance(value, dict) and kind in value
        )


class Plan(Value):
    """A way to do the task, with every choice made."""

    plan_id: Name
    steps: tuple[PlanStep, ...] = Field(min_length=1)
    answer: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Plan:
        seen: set[str] = set()
        for step in self.steps:
            for reference in step.references("$step"):
                if reference not in seen:
                    raise ValueError(
                        f"plan {self.plan_id}, step {step.step_id}: {reference} is no earlier step"
                    )
            if step.step_id in seen:
                raise ValueError(f"plan {self.plan_id}: step {step.step_id} stands twice")
            seen.add(step.step_id)
        return self


class Restriction(Value):
    """The one thing that must not be done, and a way to do it for certification.

    Without a probe (None) nothing shows that it is possible; only a task without gold plans may
    lack one.
    """

    text: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    criterion_id: Name
    probe: Plan | None = None


class Persona(Value):
    """Who the user is; `voice` names a way of speaking of the user simulator."""

    name: str
    role: str
    description: str
    voice: Name


def _by_name(texts: dict[str, str]) -> dict[str, str]:
    return dict(sorted(texts.items()))  # on the wire a map has no order


class Origin(Value):
    """The item of another project that a task was imported from.

    `texts` holds, in order of names, what has no other place in the task, so that export gives it
    back.
    """

    format: str = Field(min_length=1)
    item_id: str = Field(min_length=1)
    texts: Annotated[dict[str, str], AfterValidator(_by_name)] = Field(default_factory=dict)


class GateResult(Value):
    """The result of one gate."""

    gate: Gate
    status: GateStatus
    detail: str = ""


class Certificate(Value):
    """The proof that a task was admitted."""

    engine_version: str
    task_digest: str
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate is there, in order, and none failed."""
        return tuple(result.gate for result in self.gates) == tuple(Gate) and not any(
            result.status is GateStatus.FAILED for result in self.gates
        )


class Task(Value):
    """A task: a world, what the user wants of it, and how success is told."""

    task_id: TaskId
    split: Split
    domain: str
    difficulty: str
    family: str = "tool"
    teacher: str
    seed: int = Field(0, ge=0, lt=2**64)
    persona: Persona
    instruction: str = Field(min_length=1, max_length=4000)
    world: World
    facts: tuple[Fact, ...] = ()
    restriction: Restriction
    gold_plans: tuple[Plan, ...] = ()
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    certificate: Certificate | None = None
    background: str = Field("", max_length=20_000)
    workflow: tuple[str, ...] = ()
    origin: Origin | None = None

    @model_validator(mode="after")
    def _check_plans(self) -> Task:
        engine_only = all(isinstance(tool.behaviour, SqlProgram) for tool in self.world.tools)
        if not self.gold_plans and engine_only:
            raise ValueError("a task whose tools are all programs needs a gold plan")
        if self.gold_plans and self.restriction.probe is None:
            raise ValueError("restriction: a task with gold plans needs a probe")
        return self

    @model_validator(mode="after")
    def _check_references(self) -> Task:
        facts = {fact.fact_id for fact in self.facts}
        criteria = {criterion.criterion_id: criterion for criterion in self.criteria}
        tools = {tool.name for tool in self.world.tools}
        if len(facts) != len(self.facts) or len(criteria) != len(self.criteria):
            raise ValueError("a fact_id or criterion_id is used twice")
        for plan in self.plans:
            for step in plan.steps:
                if step.tool not in tools:
                    raise ValueError(f"plan {plan.plan_id}: no tool {step.tool}")
                for fact_id in step.references("$fact"):
                    if fact_id not in facts:
                        raise ValueError(f"plan {plan.plan_id}: no fact {fact_id}")
        forbidden = criteria.get(self.restriction.criterion_id)
        if forbidden is None or forbidden.section is not Section.POLICY:
            raise ValueError(f"restriction: no policy criterion {self.restriction.criterion_id}")
        for criterion in self.criteria:
            check = criterion.check
            if isinstance(check, AskedCheck) and check.fact_id not in facts:
                raise ValueError(f"criterion {criterion.criterion_id}: no fact {check.fact_id}")
            after = check.after_criterion_id if isinstance(check, CalledCheck) else ""
            if after and after not in criteria:
                raise ValueError(f"criterion {criterion.criterion_id}: no criterion {after}")
        return self

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The gold plans and, where there is one, the probe of the restriction."""
        probe = self.restriction.probe
        return self.gold_plans if probe is None else (*self.gold_plans, probe)

    def fact(self, fact_id: str) -> Fact:
        """The fact of that identifier. Raises KeyError."""
        for fact in self.facts:
            if fact.fact_id == fact_id:
                return fact
        raise KeyError(fact_id)
