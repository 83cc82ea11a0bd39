"""The trainer's one configuration file: TOML or YAML in, frozen and validated values out.

Every field is documented beneath itself: unit, default, and what None means. The page of all of
them, docs/trainer-configuration.md, is made from that (`python -m trainer --describe`). Unknown
keys are refused with the closest known one. `--set section.key=value` overrides a key; the resolved
configuration is written into the run folder and reads back as the same configuration. Nothing here
imports torch, so that a wrong file is answered at once.
"""

from trainer.config.file import TrainerConfig, load, parse, write
from trainer.config.sections import (
    CheckpointSettings,
    DeepSpeedSettings,
    EvaluationSettings,
    LoraSettings,
    ModelSettings,
    RewardPresetName,
    RolloutSettings,
    RunSettings,
    Section,
    TaskSettings,
)
from trainer.config.stages import DpoSettings, RlSettings, SftSettings

__all__ = [
    "CheckpointSettings",
    "DeepSpeedSettings",
    "DpoSettings",
    "EvaluationSettings",
    "LoraSettings",
    "ModelSettings",
    "RewardPresetName",
    "RlSettings",
    "RolloutSettings",
    "RunSettings",
    "Section",
    "SftSettings",
    "TaskSettings",
    "TrainerConfig",
    "load",
    "parse",
    "write",
]
