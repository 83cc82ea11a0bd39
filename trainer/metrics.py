"""What training leaves to read: rows in metrics.jsonl, Prometheus on a port, TensorBoard's files.

Rank 0 alone writes. A row is one evaluation or one step; rows are appended whole and the file is
cut back to a checkpoint's length on resume, so each step stands in it once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import orjson
from prometheus_client import start_http_server
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from synthagent.errors import Corrupt
from synthagent.metrics import TrainerMetrics
from trainer.failures import naming

_OTHERWISE_NAMED = {
    "seconds": "training_seconds",  # of a step; `step_seconds` has its rollouts too
    "n": "episodes",
}
_EVALUATION = {
    "mean_reward": "evaluation_reward",
    "reward_sem": "evaluation_reward_sem",
    "n": "evaluation_episodes",
    "invalid": "evaluation_invalid",
}
_COUNTERS = {
    "tokens": "tokens",
    "zero_variance_groups": "zero_variance_groups",
    "invalid": "invalid_trajectories",
}


class TensorBoardFile:
    """One file of TensorBoard's events.

    Written at once: the library's own SummaryWriter writes from a thread, and waits for ever where
    that has died of a full disk.
    """

    def __init__(self, folder: Path) -> None:
        """Makes a new file in `folder`. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._events = EventsWriter(str(folder / "events"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes values at a step. Raises OSError."""
        with naming(self._folder):
            for name, value in scalars.items():
                event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()


class MetricsLog:
    """Appends rows and mirrors them to Prometheus and TensorBoard."""

    def __init__(self, path: Path, *, port: int | None, tensorboard: Path | None = None) -> None:
        """Opens `path`; with `port`, serves metrics there. Raises OSError where either is taken."""
        self._path = path
        self._tensorboard = None if tensorboard is None else TensorBoardFile(tensorboard)
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
        """Appends one row: `stage` is evaluate, sft, dpo or rl. Raises OSError where it cannot."""
        row = orjson.dumps({"stage": stage, **values}, option=orjson.OPT_SERIALIZE_NUMPY)
        with naming(self._path), self._path.open("ab") as file:
            file.write(row + b"\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                mirror(self._prometheus, stage, name, value)
        if self._tensorboard is not None:
            scalars = {
                f"{stage}/{name}": float(value)
                for name, value in values.items()
                if isinstance(value, int | float) and name != "step"
            }
            self._tensorboard.write(values["step"], scalars)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, oldest first; without half a row of a process that died.

    Raises Corrupt where another row is damaged.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise Corrupt(f"{path}, line {number}, is damaged: {error}") from error
    return rows


def mirror(metrics: TrainerMetrics, stage: str, name: str, value: float) -> bool:
    """Sets the metric of a row's scalar; False where there is none, which no row should have."""
    evaluation = stage == "evaluate"
    gauge = (_EVALUATION if evaluation else _OTHERWISE_NAMED).get(name, name)
    if name == "step":
        if not evaluation:
            metrics.step.set(value)
    elif evaluation and name == "seconds":
        metrics.activity_seconds.labels("evaluate").inc(value)
    elif gauge in metrics.gauges:
        metrics.gauges[gauge].labels(stage).set(value)
        if name == "seconds" and stage != "rl":
            metrics.step_seconds.labels(stage).observe(value)
    elif name == "step_seconds":
        metrics.step_seconds.labels(stage).observe(value)
    elif name.endswith("_seconds"):
        metrics.activity_seconds.labels(name.removesuffix("_seconds")).inc(value)
    elif name == "loss":
        metrics.loss.labels(stage).set(value)
    elif name == "mean_reward":
        metrics.mean_reward.set(value)
    elif name == "tokens_per_second":
        metrics.tokens_per_second.set(value)
    elif name in _COUNTERS:
        getattr(metrics, _COUNTERS[name]).inc(value)
    else:
        return False
    return True
