"""The configuration: shipped files parse, wrong keys are named, nothing is lost in writing."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

import trainer
from synthagent.errors import InvalidInput
from trainer import config
from trainer.algorithms import ALGORITHMS
from trainer.config import changes, reference

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
        ("[grpo]\nsteps = 1", "unknown section [grpo]: it is called [rl] with algorithm = grpo"),
        ("[run]\nepochs = 1", "unknown key `epochs` in [run]: it belongs to [sft] or [dpo]"),
        ("epochs = 1", "`epochs` stands outside of a section: it belongs to [sft] or [dpo]"),
        ("[rl]\nlearning_rate = inf", "rl.learning_rate: Input should be a finite number, not inf"),
        ("[rl]\nkl_coefficient = nan", "rl.kl_coefficient: Input should be a finite number"),
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


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("sft:\n  epochs: [", "is not YAML: "),
        ("sft:\n  epochs: 1\n  epochs: 2", 'is not YAML: found duplicate key "epochs"'),
        ("- sft", "must hold sections of keys"),
        ("sft: 1", "[sft] must be a section of keys"),
        ("1: {epochs: 2}", "unknown section [1]; known are"),
        ("sft: {2: 3}", "unknown key `2` in [sft]; known are"),
        ("sft: {learing_rate: 1}", "did you mean `learning_rate`?"),
        ("sft: {min_reward: yes}", "sft.min_reward: Input should be a valid number"),
    ],
)
def test_a_wrong_yaml_file_gets_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        config.load(path)
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="is not UTF-8 text"):
        config.load(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_yaml_says_the_same_as_toml(path: Path, tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    YAML(typ="safe").dump(tomllib.loads(path.read_text()), written)
    assert config.load(written) == config.load(path)


def test_yaml_is_that_of_today_and_null_leaves_a_key_out(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("run: {name: no, metrics_port: null}\nsft: {learning_rate: 1e-4}\nrl:\n")
    loaded = config.load(path, ["sft.max_steps=3", "sft.max_steps=null"])
    assert (loaded.run.name, loaded.run.metrics_port) == ("no", None)
    assert (loaded.sft.learning_rate, loaded.sft.max_steps) == (1e-4, None)
    assert loaded.rl == config.parse({}).rl


@settings(deadline=None, max_examples=40)  # a busy machine is not what is tested
@given(
    folder=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    rate=st.floats(min_value=1e-300, max_value=1e300),
    runs=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
)
def test_whatever_is_valid_reads_back_as_written(
    folder: str, rate: float, runs: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    parsed = config.parse({"run": {"folder": folder}, "sft": {"learning_rate": rate, "runs": runs}})
    config.write(parsed, path)
    assert config.load(path) == parsed


def test_an_override_of_what_is_no_section_is_refused_like_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("sft = 1")
    with pytest.raises(InvalidInput, match=r"\[sft\] must be a section"):
        config.load(path, ["sft.epochs=2"])


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


def test_the_reference_page_is_that_of_the_code() -> None:
    """Mend it by `python -m trainer --describe > docs/trainer-configuration.md`."""
    page = (Path(__file__).parents[2] / "docs" / "trainer-configuration.md").read_text()
    assert page == reference.page()


def test_the_reference_page_has_every_key_with_its_meaning() -> None:
    page = reference.page()
    for section, field in config.TrainerConfig.model_fields.items():
        assert f"## `[{section}]`" in page
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, config.Section)
        for key, value in field.annotation.model_fields.items():
            assert f"| `{key}` |" in page
            assert " ".join((value.description or "").split()) in page


def test_a_run_goes_on_elsewhere_amended_or_not_at_all() -> None:
    base = config.parse({})
    elsewhere = config.parse({"run": {"folder": "x"}, "rollout": {"address": "h:1"}})
    assert changes.changes(base, elsewhere) == []
    [amended] = changes.changes(base, config.parse({"rl": {"learning_rate": 2e-6}}))
    assert amended.amendable
    assert str(amended) == "rl.learning_rate is 2e-06 and was 1e-06"
    [other] = changes.changes(base, config.parse({"sft": {"epochs": 2}}))
    assert not other.amendable


def test_what_may_change_of_a_run_is_named_by_keys_that_are_there() -> None:
    keys = list(config.parse({}).flat())
    for name in (*changes.FREE, *changes.AMENDABLE):
        assert any(key.startswith(name) for key in keys), name


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
        ({"rl": {"correction": "token", "old_logprobs": "recorded"}}, "recomputed"),
        ({"deepspeed": {"offload_parameters": True}}, "needs stage = 3"),
        (
            {
                "lora": {"enabled": True, "publish": "adapter"},
                "rollout": {"transfer_ranks": 1},
            },
            r"^rollout\.transfer_ranks sends the whole model",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(content: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        config.parse(content)
