"""How votes decide."""

from itertools import product

import pytest

from synthagent.worlds.episode import Votes
from synthagent.worlds.judgement import Judgement, agreement, count, decide

YES, NO, ABSTAIN = Judgement.YES, Judgement.NO, Judgement.ABSTAIN


def test_votes_are_counted() -> None:
    assert count([YES, NO, YES, ABSTAIN]) == Votes(yes=2, no=1, abstain=1)
    assert count([]) == Votes()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_an_answer_decides_exactly_where_it_outweighs_all_others(number: int) -> None:
    for answers in product(Judgement, repeat=number):
        decided = decide(count(answers))
        winners = [one for one in (YES, NO) if answers.count(one) > number - answers.count(one)]
        assert decided is (winners[0] if winners else ABSTAIN), answers


def test_agreement_is_the_share_of_the_most_frequent_answer() -> None:
    assert agreement(Votes(yes=3)) == 1.0
    assert agreement(Votes(yes=1, no=3, abstain=1)) == 3 / 5
