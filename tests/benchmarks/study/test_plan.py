import orjson
import pytest

from benchmarks.study.plan import BASE, PATH, SIZES, TRAININGS, Size, stages, training
from trainer import config


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_every_training_is_a_valid_configuration(size: Size) -> None:
    for each in TRAININGS:
        overrides = [f"{k}={orjson.dumps(v).decode()}" for k, v in each.settings.items()]
        loaded = config.load(size.config, [*overrides, f'run.name="{each.name}"'])
        assert loaded.sft.enabled is not loaded.rl.enabled
        assert loaded.evaluation.reward_preset == "paper"
        assert loaded.tasks.difficulty == loaded.evaluation.difficulty == size.difficulty
        assert loaded.evaluation.count <= size.held_out_tasks
        assert (loaded.rl.reward_preset == "no_restriction_gate") is ("gate" in each.name)
        assert loaded.rl.facts_in_instruction is ("gap" in each.name)


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_what_a_stage_needs_comes_before_it(size: Size) -> None:
    order = [each.name for each in stages(size)]
    assert len(set(order)) == len(order)
    assert order[0] == "tasks"
    for each in TRAININGS:
        if each.begins_from != BASE:
            assert order.index(f"train-{each.begins_from}") < order.index(f"train-{each.name}")
        if each.name in size.bfcl_models:
            assert order.index(f"train-{each.name}") < order.index(f"bfcl-{each.name}")
    assert [name for name in PATH if name in order] == [name for name in order if name in PATH]


def test_the_ablations_begin_alike() -> None:
    assert training("full").begins_from == training("no-restriction-gate").begins_from == "sft"
    with pytest.raises(KeyError):
        training("nothing")
