"""`make demo`: from nothing to a trained agent on one machine, and a report of what it learned.

Starts the services and the trainer as their users do, synthesizes and certifies tasks, runs the
reference agents, trains the default model by SFT and GRPO, and evaluates it on unseen domains.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from synthagent.api.v1 import rollout_pb2, task_pb2
from synthagent.client import SynthAgentClient
from synthagent.conversation import as_text, conversation
from synthagent.convert import event_from_proto, verdict_from_proto
from synthagent.demo import processes, report
from synthagent.demo.memory import PeakMemory
from synthagent.demo.report import Report, Score
from synthagent.security.channels import client_security
from synthagent.worlds.spec import Split, Task

AGENTS = ("gold", "noop", "careless", "forbidden", "pesterer")
PACKAGES = ("torch", "transformers", "deepspeed", "grpcio", "protobuf", "sqlmodel", "pydantic")
console = Console()


@dataclass(frozen=True)
class Size:
    """How much of everything a demo does."""

    train_tasks: int
    held_out_tasks: int
    agent_tasks: int
    trainer_config: str


SIZES = {
    "full": Size(200, 60, 60, "demo.toml"),
    "quick": Size(60, 30, 12, "demo-quick.toml"),
}


class Demo:
    """One demo run: its folder, its report so far, and the stages in order."""

    def __init__(self, size: Size, folder: Path, seed: int, command: str) -> None:
        self.size = size
        self.folder = folder
        self.seed = seed
        self.report = Report(command=command)
        self.report.versions = {
            "synthagent": importlib.metadata.version("synthagent"),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage for the report."""
        started = time.perf_counter()
        yield
        self.report.seconds[name] = time.perf_counter() - started

    def run(self) -> None:
        """All stages; the report is written at the end."""
        started = time.perf_counter()
        environment = {
            "SYNTHAGENT_DATABASE_URL": f"sqlite:///{self.folder}/synthagent.db",
            "SYNTHAGENT_LOG_FORMAT": "json",
            # As the trainer computes; half the memory of float32, and faster on CPUs that know it.
            "SYNTHAGENT_POLICY_DTYPE": "bfloat16",
            # Enough for the episodes of a step: the cache of every place grows with the longest.
            "SYNTHAGENT_POLICY_MAX_SEQUENCES": "32",
            # Demonstrations for SFT: the gold agent's conversations also as the policy's tokens.
            "SYNTHAGENT_TOKENIZE_REFERENCE_AGENTS": "true",
        }
        with self.stage("convert_model"):
            processes.run(["services.rollout.policy.convert"], self.folder / "convert.log")
        with PeakMemory() as memory, processes.services(self.folder, environment) as address:
            self.report.seconds["start_services"] = time.perf_counter() - started
            console.print(f"Services ready at {address}; logs in {self.folder}.")
            asyncio.run(self._before_training(address))
            with self.stage("train_and_evaluate"):
                processes.run(
                    ["trainer", *self._trainer_arguments(address)], self.folder / "trainer.log"
                )
            self._read_training()
            asyncio.run(self._show_conversation(address))
        self.report.peak_rss_mb = memory.peak_mb
        self.report.seconds["total"] = time.perf_counter() - started
        report.write(self.report, self.folder)

    async def _before_training(self, address: str) -> None:
        async with SynthAgentClient(address, security=client_security()) as client:
            with self.stage("synthesize"):
                await self._synthesize(client, Split.TRAIN, self.size.train_tasks)
                held_out = await self._synthesize(client, Split.HELD_OUT, self.size.held_out_tasks)
            self._show_task(held_out[0])
            with self.stage("reference_agents"):
                tasks = [task.task_id for task in held_out[: self.size.agent_tasks]]
                for agent in AGENTS:
                    self.report.agents[agent] = await self._run_agent(client, agent, tasks)
        _show_scores("Reference agents on held-out tasks", self.report.agents)

    async def _synthesize(self, client: SynthAgentClient, split: Split, count: int) -> list[Task]:
        tasks: list[Task] = []
        name = split.value.replace("_", "-")
        progress = None
        with _bar() as bar:
            line = bar.add_task(f"certified {name} tasks", total=count)
            async for item in client.synthesize_tasks(
                f"demo-{split.value}", count, split, difficulty="mini", seed=self.seed
            ):
                if isinstance(item, Task):
                    tasks.append(item)
                    bar.update(line, completed=len(tasks))
                else:
                    progress = item
        self.report.requested += count
        self.report.admitted += len(tasks)
        if isinstance(progress, task_pb2.SynthesisProgress):
            for gate, rejected in sorted(progress.rejected_by_gate.items()):
                known = self.report.rejected_by_gate.get(gate, 0)
                self.report.rejected_by_gate[gate] = known + rejected
        return tasks

    def _show_task(self, task: Task) -> None:
        if task.certificate:
            gates = ", ".join(result.gate.value for result in task.certificate.gates)
            console.print(f'For example {task.task_id}: "{task.instruction}"')
            console.print(f"Its certificate holds the gates {gates}.")

    async def _run_agent(self, client: SynthAgentClient, agent: str, task_ids: list[str]) -> Score:
        run_id = f"demo-{agent}"
        spec = rollout_pb2.RunSpec(
            reference=rollout_pb2.ReferenceAgent.Value(f"REFERENCE_AGENT_{agent.upper()}"),
            tasks=rollout_pb2.TaskSelection(task_ids=task_ids),
            max_turns=64,
            seed=self.seed,
        )
        progress = (await client.create_run(run_id, spec)).progress
        with _bar() as bar:
            line = bar.add_task(f"agent {agent}", total=len(task_ids))
            async for run in client.watch_run(run_id):
                progress = run.progress
                bar.update(line, completed=progress.episodes_ended)
        return Score(
            progress.mean_reward,
            progress.reward_sem,
            progress.episodes_ended - progress.episodes_invalid,
            progress.episodes_invalid,
        )

    def _trainer_arguments(self, address: str) -> list[str]:
        config = Path("trainer/configs") / self.size.trainer_config
        overrides = {
            "run.folder": str(self.folder / "trainer"),
            "run.seed": str(self.seed),
            "rollout.address": address,
        }
        pairs = [f"{name}={value}" for name, value in overrides.items()]
        return [str(config), *(part for pair in pairs for part in ("--set", pair))]

    def _read_training(self) -> None:
        names = iter(("before", "after_sft", "after_rl"))
        seconds = {"evaluate": 0.0, "sft": 0.0, "rl": 0.0}
        for line in (self.folder / "trainer" / "metrics.jsonl").read_bytes().splitlines():
            row = orjson.loads(line)
            # A GRPO step's own seconds are those of training; step_seconds has its rollouts too.
            seconds[row["stage"]] += row.get("step_seconds", row["seconds"])
            if row["stage"] == "evaluate":
                self.report.policy[next(names)] = Score(
                    row["mean_reward"], row["reward_sem"], row["n"], row["invalid"]
                )
            elif row["stage"] == "rl":
                self.report.rl_steps.append(row)
            elif row["stage"] == "sft":
                self.report.sft_steps.append(row)
        self.report.seconds |= seconds
        _show_scores("The policy on held-out tasks", self.report.policy)

    async def _show_conversation(self, address: str) -> None:
        async with SynthAgentClient(address, security=client_security()) as client:
            runs = [run async for run in client.list_runs() if run.run_id.endswith("-after-rl")]
            best = max(
                [item async for item in client.list_trajectories(runs[0].run_id)],
                key=lambda item: item.verdict.reward,
            )
            trajectory = await client.get_trajectory(best.trajectory_id)
            task = await client.get_task(trajectory.task_id)
        shown = conversation(
            task,
            [event_from_proto(event) for event in trajectory.events],
            verdict_from_proto(trajectory.verdict),
        )
        console.rule("The best held-out conversation after training")
        console.print(shown)
        self.report.conversation = as_text(shown)


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _show_scores(title: str, scores: dict[str, Score]) -> None:
    table = Table(title=title)
    for head in ("", "mean reward", "SEM", "episodes", "invalid"):
        table.add_column(head, justify="left" if not head else "right")
    for name, score in scores.items():
        row = (f"{score.mean_reward:.3f}", f"{score.sem:.3f}", str(score.n), str(score.invalid))
        table.add_row(name.replace("_", " "), *row)
    console.print(table)


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Everything smaller, for CI.")] = False,
    folder: Annotated[Path, typer.Option(help="Where to leave everything.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of tasks and training.")] = 0,
) -> None:
    """Goes from nothing to a trained agent and leaves a report. Replaces the folder."""
    folder = folder.resolve()
    if folder.exists() and not (folder / "synthagent.db").exists() and any(folder.iterdir()):
        typer.echo(
            f"{folder} holds something that is no demo run; choose another --folder", err=True
        )
        raise typer.Exit(2)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = "make demo" + (" ARGS=--quick" if quick else "")
    demo = Demo(SIZES["quick" if quick else "full"], folder, seed, command)
    try:
        demo.run()
    except processes.ProcessFailed as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
    total = demo.report.seconds["total"]
    console.print(
        f"Done in {total / 60:.1f} minutes, peak memory {demo.report.peak_rss_mb} MB. "
        f"Read {folder / 'report.md'} and see {folder / 'learning-curve.png'}."
    )


if __name__ == "__main__":
    typer.run(main)
