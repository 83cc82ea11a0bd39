"""Judgements of a model, both ways."""

import pytest

from synthagent.api.v1 import judge_pb2
from synthagent.convert import criterion_judgement_from_proto, criterion_judgement_to_proto
from synthagent.errors import InvalidInput
from synthagent.worlds.episode import CriterionResult, Votes
from synthagent.worlds.judgement import CriterionJudgement, Judgement


@pytest.mark.parametrize("judgement", Judgement)
@pytest.mark.parametrize("votes", [None, Votes(), Votes(yes=2, abstain=1)])
def test_a_judgement_comes_back_as_it_was(judgement: Judgement, votes: Votes | None) -> None:
    value = CriterionJudgement(
        judgement=judgement,
        result=CriterionResult(
            criterion_id="polite",
            satisfied=judgement is Judgement.YES,
            evidence=(0, 4),
            explanation="It said please.",
            votes=votes,
        ),
    )
    assert criterion_judgement_from_proto(criterion_judgement_to_proto(value)) == value


def test_an_unspecified_judgement_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"response\.judgement is unspecified"):
        criterion_judgement_from_proto(judge_pb2.JudgeCriterionResponse())
