"""Judgements of a model on one criterion, both ways."""

from __future__ import annotations

from synthagent.api.v1 import judge_pb2 as pb
from synthagent.convert.parts import EnumTable, build
from synthagent.convert.trajectory import criterion_result_from_proto, criterion_result_to_proto
from synthagent.worlds.judgement import CriterionJudgement, Judgement

_JUDGEMENT = EnumTable(Judgement, pb.Judgement, "JUDGEMENT")


def criterion_judgement_to_proto(judged: CriterionJudgement) -> pb.JudgeCriterionResponse:
    """The message of a judgement."""
    return pb.JudgeCriterionResponse(
        judgement=_JUDGEMENT.to_number(judged.judgement),
        result=criterion_result_to_proto(judged.result),
    )


def criterion_judgement_from_proto(
    message: pb.JudgeCriterionResponse, path: str = "response"
) -> CriterionJudgement:
    """The judgement of a message. Raises InvalidInput."""
    return build(
        path,
        CriterionJudgement,
        judgement=_JUDGEMENT.from_number(message.judgement, f"{path}.judgement"),
        result=criterion_result_from_proto(message.result, f"{path}.result"),
    )
