"""The trainer's announcement that it sends published weights by NCCL, and the requests it becomes.

The file of weights is written and published as ever, and remains what is loaded after a crash. The
announcement beside it lets a server get the same tensors from the trainer's GPU instead. It is
good for one publication: the rendezvous is made anew each time, so nobody waits for a peer of an
earlier life. No torch is needed here; trainer/transfer.py is the other side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthagent.errors import Corrupt
from synthagent.model_server.ways import announcement


class Transfer(BaseModel):
    """What the trainer sends: tensors, in this order, one broadcast each, from rank 0.

    `unique_id` is NCCL's, in base64; `world_size` counts the trainer and all workers of the server.
    `weights_sha256` is that of the file that holds the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unique_id: str
    world_size: int = Field(ge=2)
    weights_sha256: str
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    @property
    def init_info(self) -> dict[str, Any]:
        """The body of /init_weight_transfer_engine for vLLM's backend "nccl"."""
        return {
            "nccl_unique_id_b64": self.unique_id,
            "rank_offset": 1,
            "world_size": self.world_size,
            "packed": False,
        }

    @property
    def update_info(self) -> dict[str, Any]:
        """The body of /update_weights."""
        return self.model_dump(include={"names", "dtype_names", "shapes"})


def read_transfer(weights: Path, sha256: str) -> Transfer | None:
    """The announcement for a file of weights; None where there is none.

    Raises Corrupt where it makes no sense or is of other weights.
    """
    path = announcement(weights)
    try:
        found = Transfer.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise Corrupt(f"the announcement {path} makes no sense: {what}") from error
    if found.weights_sha256 != sha256:
        raise Corrupt(f"the announcement {path} is of other weights than lie beside it")
    return found
