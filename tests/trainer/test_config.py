"""The configuration: shipped files parse, wrong keys are named, nothing is lost in writing."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import trainer
from synthagent.errors import InvalidInput
from trainer import config
from trainer.algorithms import ALGORITHMS

SHIPPED = sorted((Path(inspect.getfile(trainer)).parent / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_parse_and_survive_writing(path: Path, tmp_path: Path) -> None:
    loaded = config.load(path)
    config.write(loaded, tmp_path / "config.toml")
    assert config.load(tmp_path / "config.toml") == loaded


def test_there_are_configurations_for_the_demo_and_the_paper() -> None:
    assert {path.stem for path in SHIPPED} >= {"demo", "demo-quick", "paper", "paper-code"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "[sft]\nlearing_rate = 1",
            "unknown key `learing_rate` in [sft]: did you mean `learning_rate`?",
        ),
        ("[stf]\nepochs = 1", "unknown section [stf]: did you mean `sft`?"),
        ("[sft]\nzzz = 1", "unknown key `zzz` in [sft]; known are enabled, epochs"),
        ("sft = 1", "[sft] must be a section of keys"),
        ("[sft]\nepochs = 0", "sft.epochs: Input should be greater than or equal to 1, not 0"),
        ("[deepspeed]\nstage = 4", "deepspeed.stage: Input should be 1, 2 or 3, not 4"),
        ("[sft", "is not TOML"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        config.load(path)
    assert sentence in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*absent\.toml"):
        config.load(tmp_path / "absent.toml")


def test_overrides_are_toml_or_else_strings(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[sft]\nepochs = 3\n")
    loaded = config.load(
        path, ["sft.epochs=2", "sft.enabled=false", "model.name=some/folder", "rl.steps = 7"]
    )
    assert (loaded.sft.epochs, loaded.sft.enabled) == (2, False)
    assert (loaded.model.name, loaded.rl.steps) == ("some/folder", 7)


@pytest.mark.parametrize("override", ["sft.epochs", "epochs=2", "=1", "sft.=1"])
def test_a_wrong_override_says_how_to_write_it(tmp_path: Path, override: str) -> None:
    path = tmp_path / "config.toml"
    path.touch()
    with pytest.raises(InvalidInput, match=r"write section\.key=value"):
        config.load(path, [override])


def test_every_field_is_documented() -> None:
    for section, field in config.TrainerConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, config.Section)
        for key, value in field.annotation.model_fields.items():
            assert value.description, f"{section}.{key}"


def test_the_digest_changes_with_what_decides_the_result_only() -> None:
    base = config.parse({})
    same = config.parse({"run": {"folder": "x"}, "rollout": {"address": "h:1"}})
    other = config.parse({"sft": {"epochs": 2}})
    assert base.digest() == same.digest() != other.digest()


def test_an_algorithm_sets_what_the_configuration_does_not() -> None:
    assert config.parse({}).rl.aggregation == "sequence"
    dapo = config.parse({"rl": {"algorithm": "dapo", "clip_high": 0.3}}).rl
    assert (dapo.aggregation, dapo.clip_low, dapo.clip_high) == ("token", 0.2, 0.3)
    assert dapo.sampled_groups == 16


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_reads_back_as_written(algorithm: str, tmp_path: Path) -> None:
    parsed = config.parse({"rl": {"algorithm": algorithm}})
    config.write(parsed, tmp_path / "config.toml")
    assert config.load(tmp_path / "config.toml") == parsed


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"rl": {"algorithm": "ppo"}}, "grpo"),
        ({"rl": {"correction": "token", "top_p": 0.9}}, "top_p = 1"),
        ({"rl": {"algorithm": "rloo", "minibatches": 2}}, "minibatches = 1"),
        ({"dpo": {"enabled": True}}, "dpo.runs"),
    ],
)
def test_what_does_not_go_together_is_refused(content: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        config.parse(content)
