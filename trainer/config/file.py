"""The whole file: read, overridden, validated, written."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from synthagent.errors import InvalidInput
from trainer.config.names import refuse_unknown
from trainer.config.sections import (
    CheckpointSettings,
    DeepSpeedSettings,
    EvaluationSettings,
    LoraSettings,
    ModelSettings,
    RolloutSettings,
    RunSettings,
    Section,
    TaskSettings,
)
from trainer.config.stages import DpoSettings, RlSettings, SftSettings


class TrainerConfig(Section):
    """The whole file."""

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    rollout: RolloutSettings = RolloutSettings()
    tasks: TaskSettings = TaskSettings()
    deepspeed: DeepSpeedSettings = DeepSpeedSettings()
    sft: SftSettings = SftSettings()
    dpo: DpoSettings = DpoSettings()
    rl: RlSettings = Field(default_factory=RlSettings)
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @model_validator(mode="after")
    def _check(self) -> TrainerConfig:
        if self.rollout.transfer_ranks and self.lora.enabled and self.lora.publish == "adapter":
            raise ValueError(
                'rollout.transfer_ranks sends the whole model and lora.publish = "adapter" only '
                'the adapter; set lora.publish = "merged", or leave rollout.transfer_ranks out'
            )
        return self

    def flat(self) -> dict[str, Any]:
        """Every value by `section.key`, as JSON has it."""
        return {
            f"{section}.{key}": value
            for section, fields in self.model_dump(mode="json").items()
            for key, value in fields.items()
        }


def load(path: Path, overrides: Sequence[str] = ()) -> TrainerConfig:
    """Reads `path` and applies `section.key=value` overrides. Raises InvalidInput in a sentence.

    A name that ends in .yaml or .yml is YAML 1.2; any other is TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the configuration {path} is not UTF-8 text") from error
    read = _read_yaml if path.suffix in {".yaml", ".yml"} else _read_toml
    content = read(text, path)
    for override in overrides:
        _apply(content, override)
    return parse(content)


def parse(content: Mapping[str, Any]) -> TrainerConfig:
    """Validates a nested mapping. Raises InvalidInput naming the first wrong key."""
    refuse_unknown(content, TrainerConfig)
    # YAML's null is a key left out: TOML, in which a run keeps its configuration, has none.
    given = {
        section: {key: value for key, value in fields.items() if value is not None}
        for section, fields in content.items()
    }
    try:
        return TrainerConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # from a validator of ours, which says all there is
            message = str(first["ctx"]["error"])
        else:
            message = f"{first['msg']}, not {first.get('input')!r}"
        raise InvalidInput(f"{where}: {message}" if where else message, field=where) from error


def write(config: TrainerConfig, path: Path) -> None:
    """Writes `config` as TOML that `load` reads back as the same value. None is left out."""
    lines: list[str] = []
    for section, fields in config.model_dump(mode="json", exclude_none=True).items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in fields.items()]
    path.write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")


def _toml(value: object) -> str:
    """JSON's strings, numbers and booleans are TOML's, but for one character."""
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")


def _read_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not TOML: {error}") from error


def _read_yaml(text: str, path: Path) -> dict[str, Any]:
    parser = YAML(typ="safe", pure=True)  # refuses a key that stands twice
    try:
        content = parser.load(text)
    except MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidInput(f"{path} is not YAML: {error.problem}{line}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} must hold sections of keys, as in `sft:` and `  epochs: 2`")
    return {section: {} if fields is None else fields for section, fields in content.items()}


def _apply(content: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value`; the value is TOML or `null`, or else a string."""
    name, equals, text = override.partition("=")
    section, dot, key = (part.strip() for part in name.partition("."))
    if not (equals and dot and section and key):
        raise InvalidInput(f"--set {override!r}: write section.key=value, as in sft.epochs=2")
    fields = content.setdefault(section, {})
    if isinstance(fields, dict):  # anything else is refused when the whole is parsed
        fields[key] = _value(text.strip(), tomllib.loads)


def _value(text: str, read: Callable[[str], dict[str, Any]]) -> object:
    if text == "null":
        return None
    try:
        return read(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
