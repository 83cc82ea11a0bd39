"""The loop: warms a policy up on gold trajectories, then reinforces it. Read top to bottom:

    evaluate -> SFT warm start -> publish -> evaluate
      -> DPO, where asked for -> publish -> evaluate
      -> RL steps (batch k -> advantages -> update -> publish version -> checkpoint) -> evaluate

Every rank runs it. Imports torch and DeepSpeed; `__main__.py` comes here when the configuration,
the model's folder and the run's folder are found to be right.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # DeepSpeed forks to compile; gRPC does not
# On CPUs oneDNN keeps what it made for each of 1,024 matrix shapes; rows differ in length, and it
# comes to gigabytes. Read when torch is loaded.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")

from rich.console import Console
from torch import distributed

from synthagent.models import resolve_model
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import TrainerConfig
from trainer.engine import TrainingEngine
from trainer.failures import TrainingDiverged
from trainer.launch import Placement
from trainer.metrics import MetricsLog
from trainer.ranks import Heartbeat, Ranks, end_for_silence, end_when_told, join_ranks, lost_rank
from trainer.reinforcement import Reinforcement
from trainer.report import write_report
from trainer.run_folder import RunFolder
from trainer.stream import RolloutLink
from trainer.supervision import prefer, warm_up
from trainer.training import Training

if TYPE_CHECKING:
    from trainer.lora import Adapters


@dataclass(frozen=True)
class Start:
    """What was found to be right before anything heavy was loaded, and where the run begins."""

    config: TrainerConfig
    placement: Placement
    folder: RunFolder
    checkpoints: Checkpoints
    place: Progress


def train(start: Start, console: Console) -> None:
    """Runs the whole loop on this rank. Raises SynthAgentError and OSError."""
    limit = start.config.run.rank_timeout_seconds
    end_when_told()
    ranks = join_ranks(start.config.deepspeed.threads, timeout_seconds=limit)
    console.quiet = not ranks.first
    with Heartbeat(start.placement, limit, end_for_silence(limit)):
        try:
            _train(start, ranks, console)
        except RuntimeError as error:
            lost = lost_rank(error)
            if lost is None:
                raise
            raise lost from error


def _train(start: Start, ranks: Ranks, console: Console) -> None:
    config, folder, checkpoints = start.config, start.folder, start.checkpoints
    folder.open(first=ranks.first, barrier=distributed.barrier)
    engine = TrainingEngine(
        resolve_model(config.model.name),
        config.model,
        config.deepspeed,
        entropy_gradient=config.rl.entropy_coefficient > 0,
        adapters=_adapters(config),
    )
    log = _open_log(config, folder, start.place) if ranks.first else None
    with RolloutLink(config.rollout) as link:
        training = Training(
            config, folder, ranks, engine, link, log, checkpoints, console, start.place
        )
        if checkpoints.exists:
            checkpoints.restore(engine)
            console.print(f"resumed after {start.place.stage} step {start.place.step}")
        try:
            _loop(training)
        except TrainingDiverged as error:
            raise _with_way_out(error, checkpoints, engine) from error
    if log is not None:
        log.close()
        write_report(folder.path)
    engine.close()


def _with_way_out(
    error: TrainingDiverged, checkpoints: Checkpoints, engine: TrainingEngine
) -> TrainingDiverged:
    left = checkpoints.withdraw_unproven(engine)
    way = (
        "No checkpoint is from before it: lower the learning rate and choose another run.folder"
        if left is None
        else f"{left} is from before it: lower the learning rate and start again with --amend"
    )
    return TrainingDiverged(f"{error.message}; nothing was saved or published after it. {way}")


def _adapters(config: TrainerConfig) -> Adapters | None:
    if not config.lora.enabled:
        return None
    from trainer.lora import Adapters  # noqa: PLC0415 - peft takes a second, and few runs need it

    return Adapters(config.lora, config.model.trainable_layers)


def _open_log(config: TrainerConfig, folder: RunFolder, place: Progress) -> MetricsLog:
    log = MetricsLog(
        folder.metrics,
        port=config.run.metrics_port,
        tensorboard=folder.path / "tensorboard" if config.run.tensorboard else None,
    )
    log.cut(place.metrics_length)
    return log


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
    elif training.place.stage == "rl":
        # The service may be a fresh one. Amid the other stages nothing samples, and the weights are
        # no longer those of the version before them.
        training.publish(training.place.policy_version)


def _supervise(training: Training) -> int:
    """The stages on stored trajectories; returns the policy's version behind them."""
    config, resumed = training.config, training.place.stage
    version = config.rollout.first_policy_version
    if config.sft.enabled:
        version += 1
        if resumed in {"start", "sft"}:
            warm_up(training)
            training.publish(version)
            if config.evaluation.after_sft:
                training.evaluate("after-sft")
    if config.dpo.enabled:
        version += 1
        if resumed != "rl":
            prefer(training)
            training.publish(version)
            if config.evaluation.after_dpo:
                training.evaluate("after-dpo")
    return version


def _reinforce(training: Training, version: int) -> None:
    """Reinforcement learning from policy `version`, with evaluations between."""
    config, evaluation = training.config, training.config.evaluation
    reinforcement = Reinforcement(training, version)
    every = evaluation.every_steps
    for step in range(training.place.step, config.rl.steps):
        # Before the next step: a checkpoint's records end before what its step is evaluated to.
        if every and step and step % every == 0:
            training.evaluate(f"step-{step}")
        reinforcement.step(step)
    if evaluation.after_rl:
        training.evaluate("after-rl")
