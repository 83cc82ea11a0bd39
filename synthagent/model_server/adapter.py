"""A published adapter: a folder in peft's layout whose one weights file vouches for all of it.

The trainer writes it, the rollout service checks it and tells a model server to load it. What is
published and digested is the weights file; its metadata hold the digest of the configuration
beside it, without which the same numbers would be another policy.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "adapter_model.safetensors"
"""The file that is published."""

CONFIG = "adapter_config.json"
"""Rank, alpha and modules, in the same folder."""

CONFIG_DIGEST = "adapter_config_sha256"
"""Key of the weights file's metadata: SHA-256 of the configuration in hexadecimal."""


def is_adapter(weights: Path) -> bool:
    """Whether a published file is an adapter's and not a whole model's."""
    return weights.name == WEIGHTS
