"""What a measurement does: one warm start, then one training for each seed, each with its services.

A stage lives in a folder of its own: the database of its services, the run folder of its trainer,
its logs, and `result.json`, which says that it is done. Called again, a done stage is read, and one
that was cut goes on: the trainer from its checkpoint, its runs from the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson

from benchmarks.learn.plan import (
    CONFIG,
    HELD_OUT_SEED,
    SAMPLED_EPISODES,
    Overrides,
    Size,
    Variant,
)
from synthagent.api.v1 import rollout_pb2, trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.demo import processes
from synthagent.errors import Corrupt
from synthagent.worlds.spec import Split
from trainer import config as configuration
from trainer import stream

PARTS = {
    "sub-goals": "sub_goal_fraction",
    "asked the user": "interaction_fraction",
    "kept the restriction": "policy_fraction",
}
"""Parts of a verdict that are averaged beside the reward."""


@dataclass(frozen=True)
class Measurement:
    """One measurement: where, how much, which variant, on how many threads (None: all cores)."""

    folder: Path
    size: Size
    variant: Variant
    threads: int | None = None

    def warm_start(self) -> dict[str, Any]:
        """The warm start's result, made where there is none."""
        changes = {"rl.enabled": "false", "run.seed": "0", **self.variant.warm_start}
        stage = Stage(self.folder / self.variant.start, self, changes, "after-sft", seed=0)
        return stage.result()

    def train(self, seed: int) -> dict[str, Any]:
        """The result of training with a seed from the warm start, made where there is none."""
        changes = {
            "sft.enabled": "false",
            "evaluation.after_sft": "false",
            "run.seed": str(seed),
            "model.name": str(self.folder / self.variant.start / "trainer" / "model"),
            **self.variant.training,
        }
        label = "after-rl"
        if changes.get("rl.enabled") == "false":
            changes["evaluation.after_sft"], label = "true", "after-sft"
        folder = self.folder / self.variant.name / f"seed-{seed}"
        return Stage(folder, self, changes, label, seed=seed).result()


@dataclass(frozen=True)
class Stage:
    """One training with its evaluation; `label` names the evaluation that is its result."""

    folder: Path
    measurement: Measurement
    changes: Overrides
    label: str
    seed: int

    def result(self) -> dict[str, Any]:
        """What `result.json` holds, made where there is none. Raises ProcessFailed, Corrupt."""
        path = self.folder / "result.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._timed():
                self._run()
            found = {
                "seed": self.seed,
                "seconds": round(self._seconds(), 1),
                "evaluations": orjson.loads((self.folder / "evaluations.json").read_bytes()),
                "steps": self._steps(),
            }
            _replace(path, orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        return content

    def _run(self) -> None:
        environment = {
            "SYNTHAGENT_DATABASE_URL": f"sqlite:///{self.folder}/synthagent.db",
            "SYNTHAGENT_LOG_FORMAT": "json",
            "SYNTHAGENT_POLICY_DTYPE": "bfloat16",
            "SYNTHAGENT_POLICY_MAX_SEQUENCES": "64",
            "SYNTHAGENT_POLICY_MAX_SEQUENCE_TOKENS": "1024",
            "SYNTHAGENT_TOKENIZE_REFERENCE_AGENTS": "true",
        }
        if model := self.changes.get("model.name"):
            environment["SYNTHAGENT_POLICY_MODEL"] = model
        if threads := self.measurement.threads:
            environment |= {
                "SYNTHAGENT_POLICY_THREADS": str(threads),
                "OMP_NUM_THREADS": str(threads),
            }
        processes.run(["services.rollout.policy.convert"], self.folder / "convert.log")
        with processes.services(self.folder, environment) as address:
            asyncio.run(self._synthesize(address))
            processes.run(["trainer", *self._arguments(address)], self.folder / "trainer.log")
            found = asyncio.run(self._evaluate(address))
        _replace(self.folder / "evaluations.json", orjson.dumps(found))

    @property
    def _overrides(self) -> list[str]:
        """What differs from the configuration file and decides the result."""
        changes = {**self.measurement.size.overrides, **self.changes}
        return [f"{key}={value}" for key, value in changes.items()]

    def _arguments(self, address: str) -> list[str]:
        pairs = [
            *self._overrides,
            f"run.folder={self.folder / 'trainer'}",
            f"rollout.address={address}",
        ]
        if threads := self.measurement.threads:
            pairs.append(f"deepspeed.threads={threads}")
        return [str(CONFIG), *(part for pair in pairs for part in ("--set", pair))]

    async def _synthesize(self, address: str) -> None:
        """Makes the tasks, or finds them made: a function of the seeds."""
        size = self.measurement.size
        async with SynthAgentClient(address) as client:
            for split, count, seed in (
                (Split.TRAIN, size.train_tasks, self.seed),
                (Split.HELD_OUT, size.held_out_tasks, HELD_OUT_SEED),
            ):
                async for _ in client.synthesize_tasks(
                    f"learn-{split.value}", count, split, difficulty="mini", seed=seed
                ):
                    pass

    async def _evaluate(self, address: str) -> dict[str, Any]:
        """Both evaluations of the trained policy: the trainer's greedy one, and a sampled one."""
        async with SynthAgentClient(address) as client:
            names = [run.run_id async for run in client.list_runs()]
            greedy = [name for name in names if name.endswith(f"-{self.label}")]
            if len(greedy) != 1:
                raise Corrupt(f"{self.folder} holds {len(greedy)} runs {self.label}, not 1")
            sampled = "learn-sampled"
            await client.create_run(sampled, self._sampled_spec())
            async for _ in client.watch_run(sampled):
                pass
            return {
                name: summary([item async for item in client.list_trajectories(run_id)])
                for name, run_id in (("greedy", greedy[0]), ("sampled", sampled))
            }

    def _sampled_spec(self) -> rollout_pb2.RunSpec:
        """As the greedy evaluation, but with the sampling that the policy is trained with."""
        config = configuration.load(CONFIG, self._overrides)
        evaluation = config.evaluation.model_copy(
            update={"temperature": config.rl.temperature, "episodes_per_task": SAMPLED_EPISODES}
        )
        return stream.evaluation_spec(evaluation, config.rl, config.rollout.policy, config.run.seed)

    def _steps(self) -> list[dict[str, Any]]:
        """Reward and cost of every RL step."""
        kept = (
            "step", "mean_reward", "reward_sem", "n", "invalid", "zero_variance_groups", "entropy",
            "gradient_norm", "tokens", "wait_seconds", "step_seconds",
        )  # fmt: skip
        lines = (self.folder / "trainer" / "metrics.jsonl").read_bytes().splitlines()
        rows = [row for row in map(orjson.loads, lines) if row["stage"] == "rl"]
        return [{key: _short(row.get(key)) for key in kept} for row in rows]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Adds the seconds of this call to those of earlier ones that were cut."""
        started = time.monotonic()
        try:
            yield
        finally:
            spent = self._seconds() + time.monotonic() - started
            _replace(self.folder / "seconds.json", orjson.dumps(spent))

    def _seconds(self) -> float:
        """Wall-clock seconds of all calls so far, but for those that were killed outright."""
        path = self.folder / "seconds.json"
        return float(orjson.loads(path.read_bytes())) if path.exists() else 0.0


def summary(trajectories: Sequence[trajectory_pb2.Trajectory]) -> dict[str, Any]:
    """Mean reward by task, the parts of the verdicts, and how many episodes were INVALID."""
    rewards: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    for trajectory in trajectories:
        verdict = trajectory.verdict
        if verdict.WhichOneof("outcome") != "reward":
            continue
        rewards.setdefault(trajectory.task_id, []).append(verdict.reward)
        for name, field in PARTS.items():
            parts[name].append(getattr(verdict, field))
    valid = sum(map(len, rewards.values()))
    return {
        "rewards": {task: _short(fmean(values)) for task, values in sorted(rewards.items())},
        "parts": {name: _short(fmean(values)) for name, values in parts.items() if values},
        "episodes": valid,
        "invalid": len(trajectories) - valid,
    }


def _short(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one step: it is never seen half-written."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
