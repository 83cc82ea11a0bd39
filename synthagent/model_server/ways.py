"""The ways in which published weights reach what samples with them, as data.

Which way is taken follows from what is published and where the policy runs (`way_of`); how a vLLM
server must have been started for it stands in `WAYS`, and the launcher reads it there. Every way
ends in the same check: no turn gets out that other weights sampled than those of its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from synthagent.model_server.adapter import is_adapter

ANNOUNCEMENT = ".transfer.json"
"""Ending of the file beside published weights which says that the trainer stands ready to send them
(see services/rollout/policy/transfer.py)."""


class Way(StrEnum):
    """Its value is the label `way` of synthagent_policy_load_seconds."""

    LOCAL = "local"
    RELOAD = "reload"
    ADAPTER = "adapter"
    TRANSFER = "transfer"


@dataclass(frozen=True)
class Steps:
    """What a way is.

    `published` is what the trainer gives, `steps` what is done with it, and `turns` what becomes of
    turns that are running then. `arguments` and `environment` are those of a vLLM server that can,
    beside what every policy needs.
    """

    published: str
    steps: tuple[str, ...]
    turns: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


WAYS: Mapping[Way, Steps] = {
    Way.LOCAL: Steps(
        published="a file of the whole model",
        steps=("read, check and pack", "put in the place of the old ones between two turns"),
        turns="end under the old weights; new ones wait",
    ),
    Way.RELOAD: Steps(
        published="a file of the whole model, which the server sees under the same path",
        steps=(
            "/pause?mode=wait",
            "/update_weight_version: loading ...",
            "/collective_rpc: reload_weights",
            "/update_weight_version",
            "/resume",
        ),
        turns="end under the old weights; new ones wait",
    ),
    Way.ADAPTER: Steps(
        published="an adapter's folder, which the server sees under the same path",
        steps=("/v1/load_lora_adapter", "new turns name it", "/v1/unload_lora_adapter of old ones"),
        turns="go on under the old adapter, and so do those that have begun",
        arguments=("--enable-lora", "--max-loras", "2"),
        environment={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
    ),
    Way.TRANSFER: Steps(
        published="a file of the whole model, and an announcement that the trainer sends it",
        steps=(
            "/init_weight_transfer_engine",
            "/pause?mode=wait",
            "/update_weight_version: loading ...",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/resume",
            "/shutdown_weight_transfer_engine",
        ),
        turns="end under the old weights; new ones wait",
        arguments=("--weight-transfer-config", '{"backend": "nccl"}'),
    ),
}


def way_of(weights: Path) -> Way:
    """The way of published weights to a vLLM server."""
    if is_adapter(weights):
        return Way.ADAPTER
    return Way.TRANSFER if announcement(weights).is_file() else Way.RELOAD


def announcement(weights: Path) -> Path:
    """Where the announcement of a file of weights lies."""
    return weights.with_name(weights.name + ANNOUNCEMENT)
