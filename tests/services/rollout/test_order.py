from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.rollout.order import GroupOrder, noise_seed, shuffled, trajectory_id

_IDS = st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, unique=True)


@given(_IDS, st.integers(0, 2**64 - 1))
def test_every_pass_holds_every_task_once(task_ids: list[str], seed: int) -> None:
    order = GroupOrder(tuple(task_ids), seed)
    count = len(task_ids)
    for number in range(3):
        seen = [order.task_id(number * count + place) for place in range(count)]
        assert sorted(seen) == sorted(task_ids)
    assert [order.task_id(place) for place in range(count)] == task_ids


@given(_IDS, st.integers(0, 2**64 - 1), st.randoms())
def test_draw_does_not_depend_on_the_order_of_the_selection(
    task_ids: list[str], seed: int, random: Random
) -> None:
    again = list(task_ids)
    random.shuffle(again)
    assert shuffled(task_ids, seed, "selection") == shuffled(again, seed, "selection")


def test_orders_and_noise_are_these_on_every_machine() -> None:
    assert shuffled(["a", "b", "c", "d", "e"], 7, 1) == ("c", "b", "a", "d", "e")
    assert noise_seed(7, 0, 0) == 3207403720375232969
    assert noise_seed(7, 0, 1) != noise_seed(7, 1, 0)
    assert trajectory_id("run-1", 4, 2) == "run-1.4.2"


def test_passes_can_be_asked_out_of_order() -> None:
    order = GroupOrder(tuple("abcdef"), 3)
    late = [order.task_id(ordinal) for ordinal in range(24)]
    assert [order.task_id(ordinal) for ordinal in reversed(range(24))] == late[::-1]
    assert late[6:12] != late[12:18]
