"""`python -m trainer CONFIG`: warms a policy up on gold trajectories, then reinforces it.

The loop, read top to bottom:

    evaluate -> SFT warm start -> publish -> evaluate
      -> DPO, where asked for -> publish -> evaluate
      -> RL steps (batch k -> advantages -> update -> publish version -> checkpoint) -> evaluate

A run folder that holds a checkpoint of the same configuration is resumed. Several ranks:
`torchrun --nproc-per-node 2 -m trainer CONFIG`. Exit codes:

    0  finished                        4  checkpoint or data damaged
    2  configuration or input wrong    5  loss or gradient not finite
    3  a service could not be reached  6  disk full or not writable
       or refused                      130  interrupted
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # DeepSpeed forks to compile; gRPC does not
# On CPUs oneDNN keeps what it made for each of 1,024 matrix shapes; rows differ in length, and it
# comes to gigabytes. Read when torch is loaded.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")

import typer
from rich.console import Console

from synthagent.errors import Corrupt, InvalidInput, NotFound, PreconditionFailed, SynthAgentError
from synthagent.models import resolve_model
from trainer import config as configuration
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import TrainerConfig
from trainer.engine import TrainingDiverged, TrainingEngine, join_ranks
from trainer.metrics import MetricsLog
from trainer.report import write_report
from trainer.run_folder import RunFolder
from trainer.stream import RolloutLink
from trainer.training import Training


def train(config: TrainerConfig, console: Console, *, must_resume: bool = False) -> None:
    """Runs the whole loop on this rank. Raises SynthAgentError and OSError."""
    model = resolve_model(config.model.name)
    ranks = join_ranks(config.deepspeed.threads)
    console.quiet = not ranks.first
    folder = RunFolder.open(config, ranks)
    checkpoints = Checkpoints(folder.checkpoints, keep=config.checkpoint.keep)
    if must_resume and not checkpoints.exists:
        raise InvalidInput(f"--resume: {folder.checkpoints} holds no checkpoint", field="resume")
    place = Progress(policy_version=config.rollout.first_policy_version)
    if checkpoints.exists:
        place = checkpoints.read(world_size=ranks.world_size)
    engine = TrainingEngine(
        model,
        config.model,
        config.deepspeed,
        entropy_gradient=config.rl.entropy_coefficient > 0,
    )
    log = _open_log(config, folder) if ranks.first else None
    if log is not None:
        log.cut(place.metrics_length)
    with RolloutLink(config.rollout) as link:
        training = Training(config, folder, ranks, engine, link, log, checkpoints, console, place)
        if checkpoints.exists:
            checkpoints.restore(engine)
            console.print(f"resumed after {place.stage} step {place.step}")
        _loop(training)
    if log is not None:
        log.close()
        write_report(folder.path, config)
    engine.close()


def _open_log(config: TrainerConfig, folder: RunFolder) -> MetricsLog:
    return MetricsLog(
        folder.metrics,
        port=config.run.metrics_port,
        tensorboard=folder.path / "tensorboard" if config.run.tensorboard else None,
    )


def _loop(training: Training) -> None:
    _begin(training)
    version = _supervise(training)
    if training.config.rl.enabled:
        _reinforce(training, version)
    training.export()
    training.console.print(f"finished: {training.folder.path}")


def _begin(training: Training) -> None:
    """Brings the service to where the run is, and looks at the initial policy."""
    if training.place.stage == "start":
        if training.place.policy_version:
            training.publish(training.place.policy_version)
        if training.config.evaluation.before:
            training.evaluate("before")
    elif training.place.stage != "sft":
        training.publish(training.place.policy_version)  # the service may be a fresh one


def _supervise(training: Training) -> int:
    """The stages on stored trajectories; returns the policy's version behind them."""
    config, resumed = training.config, training.place.stage
    version = config.rollout.first_policy_version
    if config.sft.enabled:
        version += 1
        if resumed in {"start", "sft"}:
            training.warm_up()
            training.publish(version)
            if config.evaluation.after_sft:
                training.evaluate("after-sft")
    if config.dpo.enabled:
        version += 1
        if resumed != "rl":
            training.prefer()
            training.publish(version)
            if config.evaluation.after_dpo:
                training.evaluate("after-dpo")
    return version


def _reinforce(training: Training, version: int) -> None:
    """Reinforcement learning from policy `version`, with evaluations between."""
    config, evaluation = training.config, training.config.evaluation
    run_id = training.begin_reinforcing(version)
    for step in range(training.place.step, config.rl.steps):
        training.reinforce(step, run_id)
        every = evaluation.every_steps
        if every and (step + 1) % every == 0 and step + 1 < config.rl.steps:
            training.evaluate(f"step-{step + 1}")
    if evaluation.after_rl:
        training.evaluate("after-rl")


def exit_code(error: SynthAgentError) -> int:
    """The exit code of an error; the module's docstring lists them."""
    if isinstance(error, TrainingDiverged):
        return 5
    if isinstance(error, Corrupt):
        return 4
    return 2 if isinstance(error, (InvalidInput, NotFound, PreconditionFailed)) else 3


def main(
    config: Annotated[Path, typer.Argument(help="Configuration file (TOML).")],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    resume: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--resume", help="Fail where there is no checkpoint to resume.")
    ] = False,
) -> None:
    """Trains a policy on episodes that stream from the rollout service."""
    console = Console()
    failures = Console(stderr=True)
    try:
        train(configuration.load(config, override or ()), console, must_resume=resume)
    except SynthAgentError as error:
        failures.print(f"trainer: {error.message}", style="red", markup=False)
        raise typer.Exit(exit_code(error)) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        failures.print(
            f"trainer: cannot write or read{where}: {error.strerror or error}. "
            "Make room or choose another run.folder, then start again: it resumes.",
            style="red",
            markup=False,
        )
        raise typer.Exit(6) from error
    except KeyboardInterrupt as error:
        failures.print("trainer: interrupted; start again to resume from the last checkpoint")
        raise typer.Exit(130) from error


if __name__ == "__main__":
    typer.run(main)
