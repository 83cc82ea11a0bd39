"""Criteria and their checks, both ways."""

from __future__ import annotations

from typing import Any

from synthagent.api.v1 import task_pb2 as pb
from synthagent.convert.parts import EnumTable, build, chosen, json_from_text, json_to_text
from synthagent.worlds import criteria

_SECTION = EnumTable(criteria.Section, pb.Section, "SECTION")


def criterion_to_proto(criterion: criteria.Criterion) -> pb.Criterion:
    """The message of a criterion."""
    message = pb.Criterion(
        criterion_id=criterion.criterion_id,
        section=_SECTION.to_number(criterion.section),
        description=criterion.description,
        weight=criterion.weight,
        source_text=criterion.source_text,
    )
    check = criterion.check
    match check:
        case criteria.StateCheck():
            message.state.sql = check.sql
        case criteria.CalledCheck():
            message.called.any_of.extend(_call_to_proto(call) for call in check.any_of)
            message.called.min_count = check.min_count
            message.called.after_criterion_id = check.after_criterion_id
        case criteria.ForbiddenCheck():
            message.forbidden.calls.extend(_call_to_proto(call) for call in check.calls)
            message.forbidden.state_sql = check.state_sql
        case criteria.AskedCheck():
            message.asked.fact_id = check.fact_id
        case criteria.AnswerCheck():
            message.answer.values_json.extend(json_to_text(value) for value in check.values)
            message.answer.any_of.extend(check.any_of)
        case criteria.JudgedCheck():
            message.judged.question = check.question
    return message


def criterion_from_proto(message: pb.Criterion, path: str) -> criteria.Criterion:
    """The criterion of a message. Raises InvalidInput."""
    return build(
        path,
        criteria.Criterion,
        criterion_id=message.criterion_id,
        section=_SECTION.from_number(message.section, f"{path}.section"),
        description=message.description,
        weight=message.weight or 1.0,
        check=_check_from_proto(message, path),
        source_text=message.source_text,
    )


def _check_from_proto(message: pb.Criterion, path: str) -> criteria.Check:
    name = chosen(message, "check", path)
    place = f"{path}.{name}"
    match name:
        case "state":
            return build(place, criteria.StateCheck, sql=message.state.sql)
        case "called":
            return build(
                place,
                criteria.CalledCheck,
                any_of=_calls_from_proto(message.called.any_of, f"{place}.any_of"),
                min_count=message.called.min_count or 1,
                after_criterion_id=message.called.after_criterion_id,
            )
        case "forbidden":
            return build(
                place,
                criteria.ForbiddenCheck,
                calls=_calls_from_proto(message.forbidden.calls, f"{place}.calls"),
                state_sql=message.forbidden.state_sql,
            )
        case "asked":
            return build(place, criteria.AskedCheck, fact_id=message.asked.fact_id)
        case "answer":
            return _answer_from_proto(message.answer, place)
        case _:
            return build(place, criteria.JudgedCheck, question=message.judged.question)


def _answer_from_proto(message: pb.AnswerCheck, path: str) -> criteria.AnswerCheck:
    values: Any = tuple(
        json_from_text(text, f"{path}.values_json[{number}]")
        for number, text in enumerate(message.values_json)
    )
    return build(path, criteria.AnswerCheck, values=values, any_of=tuple(message.any_of))


def _call_to_proto(call: criteria.CallMatcher) -> pb.CallMatcher:
    return pb.CallMatcher(
        tool=call.tool,
        arguments=[
            pb.ArgumentMatcher(name=argument.name, equals_json=json_to_text(argument.equals))
            for argument in call.arguments
        ],
        count_failed=call.count_failed,
        error_code=call.error_code,
    )


def _calls_from_proto(messages: Any, path: str) -> tuple[criteria.CallMatcher, ...]:
    return tuple(
        _call_from_proto(message, f"{path}[{number}]") for number, message in enumerate(messages)
    )


def _call_from_proto(message: pb.CallMatcher, path: str) -> criteria.CallMatcher:
    arguments = []
    for number, argument in enumerate(message.arguments):
        place = f"{path}.arguments[{number}]"
        equals: Any = json_from_text(argument.equals_json, f"{place}.equals_json")
        arguments.append(build(place, criteria.ArgumentMatcher, name=argument.name, equals=equals))
    return build(
        path,
        criteria.CallMatcher,
        tool=message.tool,
        arguments=tuple(arguments),
        count_failed=message.count_failed,
        error_code=message.error_code,
    )
