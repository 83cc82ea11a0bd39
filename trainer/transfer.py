"""Weights from the trainer's GPU straight to a vLLM server's, by NCCL.

`sending` is entered on rank 0 around a publication. It leaves an announcement beside the file that
was just written: which tensors, and NCCL's unique id. The rollout service finds it, has the server
join the rendezvous and receive, and labels the weights; here a thread is rank 0 of that group and
broadcasts the file's tensors in its order. What is sent is what was digested. The group is made
anew for each publication, so no side ever waits for a peer of an earlier life.

torch has no public binding of a communicator of one's own but torch.cuda.nccl, which this uses; a
peer without vLLM is foreseen by vLLM's interface ("nccl_unique_id_b64": 128 bytes in base64, then
an all-reduce of one element before anything else). Never run so far for want of two GPUs; what does
not need them is tested.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.cuda import nccl

from synthagent.errors import PreconditionFailed
from synthagent.model_server.ways import announcement

logger = logging.getLogger(__name__)

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_END_SECONDS = 30.0
"""How long after a publication the last broadcast may take to end here."""


@contextmanager
def sending(weights: Path, sha256: str, receivers: int | None) -> Iterator[None]:
    """Within it the file `weights` can be had by NCCL from `receivers` GPUs; None: it cannot.

    Raises PreconditionFailed where this process has no GPU with NCCL.
    """
    if receivers is None:
        yield
        return
    if not torch.cuda.is_available() or not hasattr(torch._C, "_nccl_init_rank"):  # noqa: SLF001 - torch has no other way to ask
        raise PreconditionFailed(
            "rollout.transfer_ranks needs a GPU with NCCL in the trainer; leave it out, and the "
            "weights go by file",
            field="rollout.transfer_ranks",
        )
    unique_id: bytes = nccl.unique_id()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    announce(weights, sha256, unique_id, receivers)
    # A daemon: one whose peers never come ends with the process.
    sender = threading.Thread(
        target=_send, args=(weights, unique_id, receivers), name="weights", daemon=True
    )
    sender.start()
    try:
        yield
        sender.join(_END_SECONDS)
        if sender.is_alive():
            logger.warning("nobody received the weights %s by NCCL; they went by file", weights)
    finally:
        announcement(weights).unlink(missing_ok=True)


def announce(weights: Path, sha256: str, unique_id: bytes, receivers: int) -> None:
    """Writes the announcement of a file of weights."""
    told = [
        (name, str(value.dtype).removeprefix("torch."), list(value.shape))
        for name, value in _tensors(weights, "cpu")
    ]
    content: dict[str, Any] = {
        "unique_id": base64.b64encode(unique_id).decode(),
        "world_size": 1 + receivers,
        "weights_sha256": sha256,
        "names": [name for name, _, _ in told],
        "dtype_names": [dtype for _, dtype, _ in told],
        "shapes": [shape for _, _, shape in told],
    }
    path = announcement(weights)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def broadcast(weights: Path, unique_id: bytes, world_size: int) -> None:
    """Joins the group as rank 0 and sends every tensor, on the current GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    communicator = nccl.init_rank(world_size, unique_id, 0)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    greeting = torch.zeros(1, device=device)
    nccl.all_reduce([greeting], comms=[communicator])  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for _, value in _tensors(weights, str(device)):
        nccl.broadcast([value], 0, comms=[communicator])
    torch.cuda.synchronize(device)


def _send(weights: Path, unique_id: bytes, receivers: int) -> None:
    try:
        broadcast(weights, unique_id, 1 + receivers)
    except (RuntimeError, OSError):
        # The publication fails or times out on the other side, and that is what the trainer hears.
        logger.exception("the weights %s could not be sent", weights)


def _tensors(weights: Path, device: str) -> Iterator[tuple[str, Tensor]]:
    """The file's tensors in its order; then the head, which a server may hold apart, where tied."""
    with safe_open(weights, framework="pt", device=device) as file:
        names = list(file.keys())
        for name in names:
            yield name, file.get_tensor(name)
        if _HEAD not in names:
            yield _HEAD, file.get_tensor(_EMBEDDING)
