"""What training leaves to read: rows in metrics.jsonl, Prometheus on a port, TensorBoard's files.

Rank 0 alone writes. A row is one evaluation or one step; rows are appended whole and the file is
cut back to a checkpoint's length on resume, so each step stands in it once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import orjson
from prometheus_client import start_http_server
from tensorboardX import SummaryWriter

from synthagent.metrics import TrainerMetrics


class MetricsLog:
    """Appends rows and mirrors them to Prometheus and TensorBoard."""

    def __init__(self, path: Path, *, port: int | None, tensorboard: Path | None = None) -> None:
        """Opens `path`; with `port`, serves metrics there. Raises OSError where either is taken."""
        self._path = path
        self._tensorboard = None if tensorboard is None else SummaryWriter(str(tensorboard))
        self._prometheus = TrainerMetrics()
        path.touch()
        self._server: WSGIServer | None = None
        if port is not None:
            self._server, self._thread = start_http_server(port, registry=self._prometheus.registry)

    @property
    def port(self) -> int | None:
        """Port that serves metrics."""
        return self._server.server_port if self._server else None

    def close(self) -> None:
        """Frees the port and completes TensorBoard's file."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self._path.stat().st_size

    def cut(self, length: int) -> None:
        """Forgets rows behind a checkpoint that is resumed."""
        if length < self.length:
            with self._path.open("rb+") as file:
                file.truncate(length)

    def record(self, stage: str, **values: Any) -> None:
        """Appends one row: `stage` is evaluate, sft, dpo or rl."""
        row = orjson.dumps({"stage": stage, **values}, option=orjson.OPT_SERIALIZE_NUMPY)
        with self._path.open("ab") as file:
            file.write(row + b"\n")
        if stage != "evaluate":
            self._mirror(stage, values)
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    self._tensorboard.add_scalar(f"{stage}/{name}", value, values["step"])
            self._tensorboard.flush()

    def _mirror(self, stage: str, values: dict[str, Any]) -> None:
        metrics = self._prometheus
        metrics.step.set(values["step"])
        metrics.step_seconds.labels(stage).observe(values["seconds"])
        metrics.tokens.inc(values["tokens"])
        metrics.tokens_per_second.set(values["tokens_per_second"])
        if values["loss"] is not None:
            metrics.loss.labels(stage).set(values["loss"])
        if "mean_reward" in values:
            metrics.mean_reward.set(values["mean_reward"])
            metrics.zero_variance_groups.inc(values["zero_variance_groups"])
            metrics.invalid_trajectories.inc(values["invalid"])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, oldest first."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
