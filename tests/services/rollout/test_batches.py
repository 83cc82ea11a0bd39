import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.batches import split

_WEIGHTS = st.lists(st.integers(1, 5000), min_size=1, max_size=40)


@given(_WEIGHTS, st.integers(1, 9))
def test_every_group_is_on_one_rank_and_the_loads_are_near(weights, world_size):
    result = split(weights, world_size)
    assert sorted(p for share in result.shares for p in share) == list(range(len(weights)))
    assert all(list(share) == sorted(share) for share in result.shares)
    loads = [sum(weights[p] for p in share) for share in result.shares]
    assert result.imbalance == pytest.approx(max(1.0, max(loads) * world_size / sum(weights)))
    # list scheduling: a rank is above the mean by at most its last, hence lightest, group
    assert max(loads) <= sum(weights) / world_size + max(weights)
    if len(weights) >= world_size:
        assert min(loads) > 0


def test_longest_first_beats_the_order_given():
    assert split([2, 3, 4, 6, 2, 2], 2).shares == ((0, 3, 5), (1, 2, 4))
    assert split([5, 5, 5, 5], 2).imbalance == 1.0


def test_more_ranks_than_groups_leaves_ranks_empty():
    assert split([7], 3).shares == ((0,), (), ())
    assert split([7], 3).imbalance == 3.0


def test_refuses_weights_that_would_leave_a_rank_empty():
    with pytest.raises(ValueError, match="at least 1"):
        split([0, 1], 1)
