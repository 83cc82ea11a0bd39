"""Every variant and size is a configuration that the trainer takes."""

import pytest

from benchmarks.learn.plan import CONFIG, SIZES, VARIANTS
from trainer import config as configuration


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_configurations(variant: str, size: str) -> None:
    changes = VARIANTS[variant]
    for overrides in (changes.warm_start, changes.training):
        pairs = [f"{k}={v}" for k, v in {**SIZES[size].overrides, **overrides}.items()]
        config = configuration.load(CONFIG, pairs)
        assert (config.evaluation.reward_preset or config.rl.reward_preset) == "paper"
        assert config.evaluation.split == "held_out"
        assert config.tasks.split == "train"
        assert config.evaluation.every_steps is None  # no step is chosen by what is reported


def test_enough_tasks_are_made() -> None:
    for size in SIZES.values():
        config = configuration.load(CONFIG, [f"{k}={v}" for k, v in size.overrides.items()])
        assert size.held_out_tasks == config.evaluation.count
        sft = config.sft
        assert size.train_tasks >= (sft.max_steps or 0) * sft.trajectories_per_step
        assert size.train_tasks >= config.rl.steps * config.rl.groups_per_step


def test_only_variants_that_change_the_warm_start_have_their_own() -> None:
    starts = {name: variant.start for name, variant in VARIANTS.items()}
    assert starts == {
        "full": "start",
        "sft_only": "start",
        "no_information_gap": "start-no_information_gap",
        "no_restriction_gate": "start",
    }
