"""Between the messages of TaskSynthesis and the values of synthesis, both ways.

Everything that a request alone can get wrong is refused here, with the field and what would do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum

from services.task_synthesis import journal, personas, routes
from services.task_synthesis.examine import Drawing
from services.task_synthesis.model_item import ModelOrder
from services.task_synthesis.progress import Progress
from services.task_synthesis.router import Share, mean_distance
from services.task_synthesis.synthesize import Order
from services.task_synthesis.teacher import ToolKind
from synthagent.api.v1 import task_pb2 as pb
from synthagent.convert import build, split_from_proto, split_to_proto, task_to_proto
from synthagent.convert.parts import EnumTable
from synthagent.errors import InvalidInput
from synthagent.llm import Usage
from synthagent.store import requests, tasks
from synthagent.worlds.compose import DIFFICULTIES, Composer, domains
from synthagent.worlds.spec import Persona, Split, Task

MAX_COUNT = 100_000
MAX_PAGE = 1000
DEFAULT_PAGE = 100
DEFAULT_DIFFICULTY = "standard"
DEFAULT_ATTEMPTS, MAX_ATTEMPTS = 4, 16
DEFAULT_SOLUTIONS = 2
DEFAULT_REPAIRS, MAX_REPAIRS = 2, 8
DEFAULT_ITEMS, MAX_ITEMS = 10, 100

_SET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")


class Teacher(StrEnum):
    """Who makes the tasks."""

    PROGRAM = "program"
    MODEL = "model"


_TEACHER = EnumTable(Teacher, pb.Teacher, "TEACHER")
_TOOL_KIND = EnumTable(ToolKind, pb.ToolKind, "TOOL_KIND")


def order_from_proto(request: pb.SynthesizeTasksRequest) -> Order | ModelOrder:
    """The order of a request. Raises InvalidInput, which names the field."""
    requests.check_request_id(request.request_id)
    if not 1 <= request.count <= MAX_COUNT:
        raise InvalidInput(f"count is {request.count}; give 1 to {MAX_COUNT}.", field="count")
    split = split_from_proto(request.split)
    teacher = _TEACHER.from_optional(request.teacher, "teacher") or Teacher.PROGRAM
    if teacher is Teacher.MODEL:
        return _model_order(request, split)
    if request.HasField("model"):
        raise InvalidInput(
            "model says how a model teacher works, and the programmatic one is asked for; set "
            "teacher to TEACHER_MODEL, or leave model out.",
            field="model",
        )
    difficulty = request.difficulty or DEFAULT_DIFFICULTY
    routes.check_known(difficulty, DIFFICULTIES, "difficulty", "difficulty")
    _check_domains(request, split, {each: domains(each) for each in Split})
    chosen = tuple(sorted(set(request.domains))) or None
    try:
        Composer(split, difficulty, chosen)
    except ValueError as error:
        raise InvalidInput(f"Nothing can be composed: {error}.", field="domains") from error
    return Order(
        request.request_id, request.count, Drawing(split, difficulty, chosen, request.seed)
    )


def _model_order(request: pb.SynthesizeTasksRequest, split: Split) -> ModelOrder:
    model = request.model
    persona_set = model.persona_set or personas.GENERATED
    own = persona_set == personas.GENERATED
    known = routes.values(split, personas.groups() if own else (personas.ANY_GROUP,))
    _check_domains(request, split, {each: tuple(routes.domains(each)) for each in Split})
    only = {"domain": tuple(dict.fromkeys(request.domains))}
    if request.difficulty:
        routes.check_known(request.difficulty, known["difficulty"], "difficulty", "difficulty")
        only["difficulty"] = (request.difficulty,)
    attempts = _within(model.attempts, DEFAULT_ATTEMPTS, 1, MAX_ATTEMPTS, "attempts")
    solutions = _within(
        model.min_solutions, min(DEFAULT_SOLUTIONS, attempts), 1, MAX_ATTEMPTS, "min_solutions"
    )
    if solutions > attempts:
        raise InvalidInput(
            f"model.min_solutions is {solutions}, and only {attempts} attempts are made; lower it, "
            "or raise model.attempts.",
            field="model.min_solutions",
        )
    repairs = model.repairs if model.HasField("repairs") else DEFAULT_REPAIRS
    if repairs > MAX_REPAIRS:
        raise InvalidInput(
            f"model.repairs is {repairs}; give 0 to {MAX_REPAIRS}.", field="model.repairs"
        )
    weights = [routes.Weight(each.dimension, each.value, each.weight) for each in model.routes]
    return ModelOrder(
        request_id=request.request_id,
        count=request.count,
        split=split,
        seed=request.seed,
        tool_kind=_TOOL_KIND.from_optional(model.tool_kind, "model.tool_kind")
        or ToolKind.SIMULATED,
        attempts=attempts,
        min_solutions=solutions,
        persona_set=persona_set,
        targets=routes.targets(known, weights, field="model.routes", only=only),
        repairs=repairs,
        items_per_task=_within(model.items_per_task, DEFAULT_ITEMS, 1, MAX_ITEMS, "items_per_task"),
    )


def _within(given: int, default: int, least: int, most: int, name: str) -> int:
    value = given or default
    if not least <= value <= most:
        raise InvalidInput(
            f"model.{name} is {value}; give {least} to {most}.", field=f"model.{name}"
        )
    return value


def _check_domains(
    request: pb.SynthesizeTasksRequest, split: Split, known: Mapping[Split, tuple[str, ...]]
) -> None:
    other = next(each for each in Split if each is not split)
    for number, domain in enumerate(request.domains):
        if domain in known[other]:
            raise InvalidInput(
                f"Domain {domain!r} belongs to the split {other.value}, not {split.value}.",
                field=f"domains[{number}]",
            )
        what = f"domain of {split.value}"
        routes.check_known(domain, sorted(known[split]), f"domains[{number}]", what)


def page_size(given: int) -> int:
    """The size of a page. Raises InvalidInput."""
    if given > MAX_PAGE:
        raise InvalidInput(f"page_size is {given}; give at most {MAX_PAGE}.", field="page_size")
    return given or DEFAULT_PAGE


def check_set_name(name: str) -> None:
    """Raises InvalidInput where no personas can be imported under the name."""
    if name == personas.GENERATED:
        raise InvalidInput(
            f"The set {name!r} is ours and cannot be added to; choose another name.",
            field="persona_set",
        )
    if not _SET_NAME.fullmatch(name):
        raise InvalidInput(
            f"persona_set {name!r} is no name; give 1 to 48 lower-case letters, digits and -, not "
            "starting with -.",
            field="persona_set",
        )


def persona_from_proto(message: pb.Persona, path: str) -> Persona:
    """A persona to import, with what it lacks filled in. Raises InvalidInput."""
    if not message.description.strip():
        raise InvalidInput(
            f"{path} has no description; give one sentence about the person.",
            field=f"{path}.description",
        )
    return build(
        path,
        personas.completed,
        name=message.name,
        role=message.role,
        description=message.description,
        voice=message.voice,
    )


def response(item: Task | Progress) -> pb.SynthesizeTasksResponse:
    """The message of an item of a synthesis."""
    if isinstance(item, Task):
        return pb.SynthesizeTasksResponse(task=task_to_proto(item))
    return pb.SynthesizeTasksResponse(
        progress=pb.SynthesisProgress(
            requested=item.requested,
            admitted=item.admitted,
            attempted=item.attempted,
            rejected_by_gate=item.rejected_by_gate,
            usage=_usage(item.usage),
            route_distance=item.route_distance,
        )
    )


def summary_to_proto(summary: tasks.TaskSummary) -> pb.TaskSummary:
    """The message of a task in a listing."""
    values = asdict(summary)
    values["split"] = split_to_proto(summary.split)
    return pb.TaskSummary(**values)


def wanted(order: Order | ModelOrder) -> pb.GetSynthesisResponse:
    """What was asked for, as the state of a synthesis that did nothing yet."""
    targets = order.targets if isinstance(order, ModelOrder) else {}
    return pb.GetSynthesisResponse(
        progress=pb.SynthesisProgress(requested=order.count),
        routes=[
            pb.RouteShare(dimension=dimension, value=value, target=target)
            for dimension, shares in targets.items()
            for value, target in shares.items()
        ],
    )


def synthesis_to_proto(
    asked: pb.GetSynthesisResponse, summary: journal.Summary
) -> pb.GetSynthesisResponse:
    """What became of a synthesis, beside what was asked for."""
    shares = tuple(_share(each, summary) for each in asked.routes)
    usage, admitted = summary.usage, summary.admitted
    tokens = usage.prompt_tokens + usage.completion_tokens
    return pb.GetSynthesisResponse(
        progress=pb.SynthesisProgress(
            requested=asked.progress.requested,
            admitted=admitted,
            attempted=summary.attempted,
            rejected_by_gate=summary.rejected,
            usage=_usage(usage),
            route_distance=mean_distance(shares),
        ),
        **{"yield": admitted / summary.attempted if summary.attempted else 0.0},
        tokens_per_admitted=tokens / admitted if admitted else 0.0,
        cost_per_admitted=usage.cost / admitted if admitted else 0.0,
        seconds_per_admitted=usage.seconds / admitted if admitted else 0.0,
        routes=[pb.RouteShare(**asdict(share)) for share in shares],
    )


def _share(asked: pb.RouteShare, summary: journal.Summary) -> Share:
    on_it = [each for each in summary.routes if each.route.get(asked.dimension) == asked.value]
    admitted = sum(each.admitted for each in on_it)
    return Share(
        dimension=asked.dimension,
        value=asked.value,
        target=asked.target,
        admitted=admitted / summary.admitted if summary.admitted else 0.0,
        attempted=sum(each.attempted for each in on_it),
    )


def attempt_to_proto(attempt: journal.Attempt, not_composed: str) -> pb.SynthesisItem:
    """The message of an attempt; `not_composed` names a refusal by no gate."""
    return pb.SynthesisItem(
        attempt=attempt.number,
        task_id=attempt.task_id,
        rejected_by="" if attempt.task_id else attempt.gate or not_composed,
        reason=attempt.reason,
        route=attempt.route,
        usage=_usage(attempt.usage),
    )


def _usage(usage: Usage) -> pb.ModelUsage:
    return pb.ModelUsage(**asdict(usage))
