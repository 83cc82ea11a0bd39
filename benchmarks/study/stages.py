"""The stages of a study: synthesis, a training, a BFCL score. Each goes on from what it left.

FOLDER/tasks/             the database that synthesis fills; every training begins with a copy
FOLDER/NAME/              a training: its database, logs, run/ of the trainer with run/model
FOLDER/NAME/evaluations.json  its held-out evaluations, with what verdicts consist of
FOLDER/bfcl/NAME/         answers and scores of a model
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks.study.plan import BASE, Size, Training, training
from benchmarks.study.slices import Slice, StageFailed
from synthagent.api.v1 import task_pb2, trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.embedded import services
from synthagent.models import DEFAULT_MODEL
from synthagent.worlds.spec import Split, Task

_START_SECONDS = 60.0  # to start services and a trainer; less is not worth beginning


@dataclass(frozen=True)
class Study:
    """One study in its folder.

    `threads` are those of each process on the CPU, 0 for all cores; `overrides` are further keys of
    the trainer, as `section.key=value`.
    """

    size: Size
    folder: Path
    seed: int = 0
    threads: int = 0
    overrides: tuple[str, ...] = field(default=())

    def model(self, name: str) -> str:
        """The model folder of a trained model, or the name of the packaged one."""
        return DEFAULT_MODEL if name == BASE else str(self.folder / name / "run" / "model")


Named = Callable[[Study, str, Slice], None]
"""A stage that is about one model. Raises SliceOver, StageFailed, ProcessFailed."""


def make_tasks(study: Study, piece: Slice) -> None:
    """Synthesizes and certifies the tasks of both splits."""
    piece.need(_START_SECONDS)
    folder = study.folder / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    with services(folder, _environment(study, folder, BASE)) as address:
        rejected = asyncio.run(_synthesize(study, address))
    # One file, so that it can be copied.
    with closing(sqlite3.connect(folder / "synthagent.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (folder / "tasks.json").write_bytes(orjson.dumps(rejected, option=orjson.OPT_INDENT_2))


def train(study: Study, name: str, piece: Slice) -> None:
    """One training with its evaluations."""
    piece.need(_START_SECONDS)
    this = training(name)
    folder = study.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "synthagent.db").exists():
        copy = folder / "synthagent.copy"
        shutil.copy2(study.folder / "tasks" / "synthagent.db", copy)
        copy.rename(folder / "synthagent.db")
    with services(folder, _environment(study, folder, this.begins_from)) as address:
        command = [sys.executable, "-m", "trainer", str(study.size.config)]
        for key, value in _settings(study, this, address).items():
            command += ["--set", f"{key}={orjson.dumps(value).decode()}"]
        for override in study.overrides:
            command += ["--set", override]
        piece.run(command, folder / "trainer.log")
        found = asyncio.run(_evaluations(address, folder / "run"))
    (folder / "evaluations.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def score_bfcl(study: Study, name: str, piece: Slice) -> None:
    """A model's BFCL scores."""
    piece.need(_START_SECONDS)
    asked, folder = study.size.bfcl, study.folder / "bfcl" / name
    command = [
        *(sys.executable, "-m", "benchmarks.bfcl"),
        *("--folder", str(folder), "--model", study.model(name)),
        *("--categories", asked.categories),
        *("--limit", str(asked.limit), "--multi-turn-limit", str(asked.multi_turn_limit)),
        *("--turn-tokens", str(asked.turn_tokens), "--places", str(asked.places)),
        *("--threads", str(study.threads), "--seed", str(study.seed)),
    ]
    if piece.run(command, study.folder / "bfcl" / f"{name}.log", accepted=(0, 1)):
        raise StageFailed(
            f"some items of {name} have no answer, by a fault that stands in {folder}/report.json; "
            "repeat the command to ask them again"
        )


def _environment(study: Study, folder: Path, begins_from: str) -> Mapping[str, str]:
    threads = study.threads
    return {
        "SYNTHAGENT_DATABASE_URL": f"sqlite:///{folder.absolute()}/synthagent.db",
        "SYNTHAGENT_LOG_FORMAT": "json",
        "SYNTHAGENT_POLICY_MODEL": study.model(begins_from),
        # Demonstrations for SFT: the gold agent's conversations also as the policy's tokens.
        "SYNTHAGENT_TOKENIZE_REFERENCE_AGENTS": "true",
        **study.size.policy,
        **({"SYNTHAGENT_POLICY_THREADS": str(threads)} if threads else {}),
    }


def _settings(study: Study, this: Training, address: str) -> dict[str, object]:
    return {
        "run.name": this.name,
        "run.folder": str(study.folder / this.name / "run"),
        "run.seed": study.seed,
        "model.name": study.model(this.begins_from),
        **({"deepspeed.threads": study.threads} if study.threads else {}),
        "rollout.address": address,
        **this.settings,
    }


async def _synthesize(study: Study, address: str) -> dict[str, dict[str, int]]:
    """Counts of admitted and rejected tasks by split."""
    counts: dict[str, dict[str, int]] = {}
    wanted = {Split.TRAIN: study.size.train_tasks, Split.HELD_OUT: study.size.held_out_tasks}
    async with SynthAgentClient(address) as client:
        for split, count in wanted.items():
            admitted, rejected = 0, 0
            async for item in client.synthesize_tasks(
                f"study-{split.value}",
                count,
                split,
                difficulty=study.size.difficulty,
                seed=study.seed,
            ):
                if isinstance(item, Task):
                    admitted += 1
                elif isinstance(item, task_pb2.SynthesisProgress):
                    rejected = sum(item.rejected_by_gate.values())
            counts[split.value] = {"admitted": admitted, "rejected": rejected}
    return counts


async def _evaluations(address: str, run: Path) -> list[dict[str, object]]:
    """Each evaluation of a run, with the parts of its verdicts."""
    token = orjson.loads((run / "run.json").read_bytes())["token"]
    rows = [orjson.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    found = []
    async with SynthAgentClient(address) as client:
        names = [each.run_id async for each in client.list_runs()]
        for row in rows:
            if row["stage"] != "evaluate":
                continue
            ending = f"-{token}-{row['label']}"
            (run_id,) = (name for name in names if name.endswith(ending))
            verdicts = [each.verdict async for each in client.list_trajectories(run_id)]
            kept = {key: row[key] for key in ("label", "mean_reward", "reward_sem", "n", "invalid")}
            found.append({**kept, **verdict_parts(verdicts)})
    return found


def verdict_parts(verdicts: list[trajectory_pb2.Verdict]) -> dict[str, float]:
    """Means over valid verdicts: forbidden acts (share of episodes), sub-goals, interactions."""
    valid = [each for each in verdicts if each.WhichOneof("outcome") == "reward"]
    if not valid:
        return {}
    return {
        "forbidden": statistics.fmean(each.policy_fraction < 1 for each in valid),
        "sub_goals": statistics.fmean(each.sub_goal_fraction for each in valid),
        "interactions": statistics.fmean(each.interaction_fraction for each in valid),
    }
