"""Sending weights by NCCL, as far as this machine goes.

What the announcement holds, and the requests that follow from it, are checked against a server in
tests/services/rollout/policy/test_server_weights.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.cuda import nccl

from synthagent.errors import PreconditionFailed
from synthagent.model_server.ways import announcement
from trainer.transfer import broadcast, sending


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "policy-v000001.safetensors"
    save_file({"model.embed_tokens.weight": torch.ones(3, 2)}, path)
    return path


def test_without_receivers_nothing_is_announced(weights: Path) -> None:
    with sending(weights, "digest", None):
        assert not announcement(weights).exists()


def test_a_trainer_without_a_gpu_says_so(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = pytest.raises(PreconditionFailed, match=r"rollout\.transfer_ranks needs a GPU")
    with refused, sending(weights, "digest", 1):
        pass
    assert not announcement(weights).exists()


@pytest.mark.gpu
def test_a_group_of_one_is_greeted_and_served(weights: Path) -> None:
    """The calls of the sender. Not run so far: it needs a GPU, and a real transfer needs two."""
    broadcast(weights, nccl.unique_id(), 1)  # type: ignore[no-untyped-call]  # torch leaves it so
