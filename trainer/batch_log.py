"""batches.jsonl: which trajectories each step of reinforcement trained on, to be audited.

Rank 0 writes one line a step, after the update and before the checkpoint. On resume the lines
behind the checkpoint are forgotten, and so is half a line of a process that died writing: each
step stands there once, whatever happened in between.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from synthagent.errors import Corrupt
from trainer.checkpoint import write_atomically


class TrainedBatch(BaseModel):
    """A step's batch and what became of it.

    `step` counts from 1, as in metrics.jsonl; `batch_id` names the stored row; `policy_version` is
    the version that was trained. `trajectory_ids` are those of the row, in its order; of them,
    `trained_ids` carried loss (a group without variance, or an INVALID episode, does not).
    `rank_tokens` are the tokens of each rank's share, `rank_tokens_computed` those that its forward
    passes took: prompts that are shared count once, groups that are left out not at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    batch_id: str
    policy_version: int
    trajectory_ids: tuple[str, ...]
    trained_ids: tuple[str, ...]
    rank_tokens: tuple[int, ...]
    rank_tokens_computed: tuple[int, ...]


class BatchLog:
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def cut(self, steps: int) -> None:
        """Keeps the first `steps` steps. Raises Corrupt where the file is damaged before them."""
        if not self._path.exists():
            return
        lines = self._path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        try:
            kept = [line for line in lines if TrainedBatch.model_validate_json(line).step <= steps]
        except ValidationError as error:
            raise _damaged(self._path, error) from error
        write_atomically(self._path, b"".join(kept))

    def append(self, batch: TrainedBatch) -> None:
        """Writes a step down."""
        with self._path.open("ab") as file:
            file.write(batch.model_dump_json().encode() + b"\n")


def read_batches(path: Path) -> list[TrainedBatch]:
    """The steps of a batches.jsonl, oldest first. Raises Corrupt where a line is none."""
    try:
        return [TrainedBatch.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except ValidationError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: ValidationError) -> Corrupt:
    why = error.errors()[0]["msg"]
    return Corrupt(f"{path} is damaged ({why}); restore it, or move it away")
