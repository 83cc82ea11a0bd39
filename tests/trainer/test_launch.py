"""A process's place among ranks, from the variables of different launchers."""

from __future__ import annotations

import pytest

from synthagent.errors import InvalidInput
from trainer.launch import Placement, said_rank

MASTER = {"MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}


def test_without_a_launcher_a_process_trains_alone() -> None:
    assert Placement.from_environment({}) == Placement()
    assert Placement.from_environment({"MASTER_ADDR": "left-over"}) == Placement()
    assert Placement.from_environment({"WORLD_SIZE": "1"}) == Placement()


def test_torchrun_and_deepspeed_tell_the_ranks_of_a_machine() -> None:
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **MASTER}
    wanted = Placement(5, 8, 1, 4, ("node-0", 29500))
    assert Placement.from_environment({**told, "LOCAL_WORLD_SIZE": "4"}) == wanted
    assert Placement.from_environment({**told, "LOCAL_SIZE": "4"}) == wanted


def test_an_operator_with_one_rank_a_machine_tells_no_local_rank() -> None:
    place = Placement.from_environment({"RANK": "1", "WORLD_SIZE": "2", **MASTER})
    assert (place.local_rank, place.local_ranks) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT are not"),
        ({"WORLD_SIZE": "2", **MASTER}, "WORLD_SIZE is set in the environment and RANK is not"),
        ({"RANK": "2", "WORLD_SIZE": "2", **MASTER}, "RANK is 2 and WORLD_SIZE 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2", **MASTER}, "RANK is '-1' in the environment"),
        ({"RANK": "0", "WORLD_SIZE": "two", **MASTER}, "WORLD_SIZE is 'two'"),
    ],
)
def test_what_makes_no_sense_is_refused(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        Placement.from_environment(environment)


def test_messages_name_the_rank_where_there_are_several() -> None:
    assert said_rank({}) == said_rank({"RANK": "0", "WORLD_SIZE": "1"}) == ""
    assert said_rank({"RANK": "3", "WORLD_SIZE": "4"}) == " (rank 3)"
