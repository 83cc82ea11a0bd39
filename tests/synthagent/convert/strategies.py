"""Random values of every part of a task and an episode, valid by construction."""

from typing import TypeVar

from hypothesis import strategies as st

from synthagent.worlds import criteria, episode, spec

T = TypeVar("T")

names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), max_size=30)
some_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
json_objects = st.dictionaries(texts, json_values, max_size=4)


def tuples(
    strategy: st.SearchStrategy[T], least: int = 0, most: int = 3
) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(strategy, min_size=least, max_size=most).map(tuple)


@st.composite
def tables(draw: st.DrawFn) -> spec.Table:
    columns = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    key = draw(st.integers(-1, len(columns) - 1))
    return spec.Table(
        name=draw(names),
        columns=tuple(
            spec.Column(
                name=name,
                type=draw(st.sampled_from(spec.ColumnType)),
                primary_key=number == key,
                nullable=draw(st.booleans()),
            )
            for number, name in enumerate(columns)
        ),
        rows=tuple(tuple(draw(scalars) for _ in columns) for _ in range(draw(st.integers(0, 3)))),
    )


@st.composite
def statements(draw: st.DrawFn, kind: spec.StatementKind) -> spec.Statement:
    shape = draw(st.sampled_from(spec.ReturnShape)) if kind == spec.StatementKind.RETURN else None
    return spec.Statement(
        kind=kind,
        sql=draw(some_text),
        error_code=draw(names),
        error_message=draw(texts),
        shape=shape,
        key=draw(names) if shape is spec.ReturnShape.ROWS else "",
    )


programs = st.builds(
    lambda before, last: spec.SqlProgram(statements=(*before, last)),
    tuples(
        st.sampled_from([spec.StatementKind.REQUIRE, spec.StatementKind.EXECUTE]).flatmap(
            statements
        )
    ),
    statements(spec.StatementKind.RETURN),
)
tools = st.builds(
    spec.Tool,
    name=st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    description=texts,
    input_schema=json_objects,
    output_schema=st.none() | json_objects,
    category=texts,
    behaviour=programs
    | st.builds(spec.SimulatedBehaviour, guidance=texts, changes_state=st.booleans())
    | st.builds(spec.BuiltinBehaviour, name=names),
)
facts = st.builds(
    spec.Fact,
    fact_id=names,
    label=some_text,
    value=st.one_of(st.booleans(), integers, floats, texts),
    ask_terms=tuples(texts, 1),
    replies=tuples(texts.map(lambda text: text + "{value}"), 1),
    questions=tuples(texts, 1),
)
calls = st.builds(
    criteria.CallMatcher,
    tool=st.just("find_courts"),
    arguments=tuples(st.builds(criteria.ArgumentMatcher, name=texts, equals=scalars)),
    count_failed=st.booleans(),
    error_code=texts,
)
checks = st.one_of(
    st.builds(criteria.StateCheck, sql=some_text),
    st.builds(criteria.CalledCheck, any_of=tuples(calls, 1), min_count=st.integers(1, 2**32 - 1)),
    st.builds(criteria.AskedCheck, fact_id=st.just("day")),
    st.builds(criteria.AnswerCheck, values=tuples(scalars, 1), any_of=tuples(texts)),
    st.builds(criteria.JudgedCheck, question=some_text),
)
rubric_lines = st.builds(
    criteria.Criterion,
    criterion_id=names,
    section=st.sampled_from(criteria.Section),
    description=some_text,
    weight=st.floats(1e-9, 1e9),
    check=checks,
    source_text=texts,
) | st.builds(
    criteria.Criterion,
    criterion_id=names,
    section=st.just(criteria.Section.POLICY),
    description=some_text,
    check=st.builds(criteria.ForbiddenCheck, calls=tuples(calls, 1), state_sql=texts),
)
origins = st.builds(
    spec.Origin,
    format=some_text,
    item_id=some_text,
    texts=st.dictionaries(texts, texts, max_size=3),
)
certificates = st.builds(
    spec.Certificate,
    engine_version=texts,
    task_digest=texts,
    gates=tuples(
        st.builds(
            spec.GateResult,
            gate=st.sampled_from(spec.Gate),
            status=st.sampled_from(spec.GateStatus),
            detail=texts,
        )
    ),
)


@st.composite
def tasks(draw: st.DrawFn, base: spec.Task) -> spec.Task:
    """A task like `base`, with other tables, and with more tools, facts and criteria."""
    known_facts = {fact.fact_id for fact in base.facts}
    known_criteria = {criterion.criterion_id for criterion in base.criteria}
    new_tool = tools.filter(lambda tool: base.world.tool(tool.name) is None)
    new_facts = tuples(facts.filter(lambda fact: fact.fact_id not in known_facts), most=1)
    new_criteria = tuples(
        rubric_lines.filter(lambda c: c.criterion_id not in known_criteria), most=1
    )
    world = base.world.model_copy(
        update={
            "tables": draw(st.lists(tables(), max_size=2, unique_by=lambda t: t.name).map(tuple)),
            "tools": (*base.world.tools, draw(new_tool)),
        }
    )
    return base.model_copy(
        update={
            "world": world,
            "seed": draw(st.integers(0, 2**64 - 1)),
            "split": draw(st.sampled_from(spec.Split)),
            "domain": draw(texts),
            "facts": (*base.facts, *draw(new_facts)),
            "criteria": (*base.criteria, *draw(new_criteria)),
            "certificate": draw(st.none() | certificates),
            "background": draw(texts),
            "workflow": draw(tuples(texts)),
            "origin": draw(st.none() | origins),
        }
    )


hashes = st.text("0123456789abcdef", min_size=32, max_size=32)
bodies = st.one_of(
    st.builds(
        episode.AgentTurn,
        text=texts,
        action=st.sampled_from(episode.AgentAction),
        tool=texts,
        arguments=texts,
        content=texts,
    ),
    st.builds(
        episode.ToolResult, ok=st.booleans(), result=texts, error_code=texts, state_hash=hashes
    ),
    st.builds(
        episode.UserReply,
        text=texts,
        reply=st.sampled_from(episode.ReplyKind),
        revealed=tuples(texts),
    ),
    st.builds(
        episode.EpisodeEnd,
        outcome=st.sampled_from(episode.EpisodeOutcome),
        invalid_reason=st.none() | st.sampled_from(episode.InvalidReason),
        detail=texts,
    ),
)
events = st.builds(episode.Event, sequence=st.integers(0, 2**32 - 1), body=bodies)
fractions = st.floats(0, 1)
counts = st.integers(0, 2**32 - 1)
results = st.builds(
    episode.CriterionResult,
    criterion_id=texts,
    satisfied=st.booleans(),
    evidence=tuples(counts),
    explanation=texts,
    votes=st.none() | st.builds(episode.Votes, yes=counts, no=counts, abstain=counts),
)
verdicts = st.builds(
    episode.Verdict,
    reward=fractions,
    reward_preset=texts,
    policy_fraction=fractions,
    sub_goal_fraction=fractions,
    interaction_fraction=fractions,
    results=tuples(results),
) | st.builds(
    episode.Verdict,
    reward=st.none(),
    invalid_reason=st.sampled_from(episode.InvalidReason),
    detail=texts,
    reward_preset=texts,
)
