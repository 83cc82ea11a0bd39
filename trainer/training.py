"""What the stages of a run share on one rank: evaluation, publication, checkpoints, records.

The stages themselves are `supervision.py` and `reinforcement.py`. Rank 0 talks to the rollout
service about runs and weights and keeps the records; all ranks take part in everything else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from deepspeed import comm
from rich.console import Console

from synthagent.errors import PreconditionFailed
from synthagent.models import resolve_model
from trainer import stream, weights
from trainer.checkpoint import Checkpoints, Progress
from trainer.clock import Clock
from trainer.config import TrainerConfig
from trainer.engine import TrainingEngine, Update
from trainer.metrics import MetricsLog
from trainer.packing import Row
from trainer.progress import Bar
from trainer.ranks import Ranks
from trainer.run_folder import RunFolder
from trainer.stream import RolloutLink
from trainer.transfer import sending

T = TypeVar("T")


@dataclass
class Training:
    """One rank's share of a run; `place` moves as the loop does."""

    config: TrainerConfig
    folder: RunFolder
    ranks: Ranks
    engine: TrainingEngine
    link: RolloutLink
    log: MetricsLog | None  # rank 0 only
    checkpoints: Checkpoints
    console: Console
    place: Progress
    clock: Clock = field(default_factory=Clock)

    def evaluate(self, label: str) -> None:
        """Records the policy's reward on the evaluation tasks."""
        if self.log is not None:
            started = time.perf_counter()
            spec = stream.evaluation_spec(
                self.config.evaluation,
                self.config.rl,
                self.config.rollout.policy,
                self.config.run.seed,
            )
            with self.bar(f"evaluate {label}") as bar:
                result = self.link.evaluate(
                    self.folder.run_id(label), spec, self.place.policy_version, bar.show
                )
            self._record(
                "evaluate",
                label=label,
                mean_reward=result.mean_reward,
                reward_sem=result.reward_sem,
                n=result.n,
                invalid=result.invalid,
                seconds=time.perf_counter() - started,
            )
            self.console.print(
                f"{label}: reward {result.mean_reward:.3f} ± {result.reward_sem:.3f} "
                f"(n = {result.n}, {result.invalid} invalid)"
            )
        self.engine.barrier()

    def publish(self, version: int) -> None:
        """Makes the weights as they are the policy's `version` and moves there."""
        with self.clock.measured("publish"):
            self._publish(version)

    def _publish(self, version: int) -> None:
        path, digest = weights.write_version(self.engine, self.folder.weights, version)
        if self.ranks.first:
            highest = self.folder.highest_published()
            # Noted before: a run that dies in between may have been heard.
            self.folder.note_published(version)
            receivers = self.config.rollout.transfer_ranks if version > highest else None
            try:
                with sending(path, digest, receivers):
                    self.link.publish(version, path, digest)
            except PreconditionFailed as error:
                # A resumed run repeats steps whose versions the service already has or has passed.
                if version > highest:
                    self.folder.note_refused(highest)
                    raise PreconditionFailed(
                        f"{error.message} Set rollout.first_policy_version above it for a new run."
                    ) from error
        self.place = self.place.model_copy(update={"policy_version": version})
        self.engine.barrier()

    def export(self) -> None:
        """Writes the trained model for transformers."""
        weights.export_model(self.engine, resolve_model(self.config.model.name), self.folder.model)
        self.engine.barrier()

    def referenced(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the reference's log-probabilities. On all ranks."""
        with self.clock.measured("scoring"):
            scores = self.engine.reference_logprobs(rows)
        return [
            replace(row, reference_logprobs=score.cpu().numpy())
            for row, score in zip(rows, scores, strict=True)
        ]

    def hold_reference(self, stage: str, *, begins: bool) -> None:
        """Takes the policy as it is where a stage `begins`, and else as it was then."""
        path = self.folder.path / f"reference-{stage}.safetensors"
        # A run that went back to before the stage may have come to it with another policy.
        if begins or not self.engine.anywhere(path.exists()):
            weights.write_reference(self.engine, path)
        self.engine.barrier()
        self.engine.hold_reference(path)

    def gathered(self, own: Sequence[T]) -> list[T]:
        """What all ranks have, in the order of ranks."""
        gathered: list[Sequence[T]] = [()] * self.ranks.world_size
        comm.all_gather_object(gathered, list(own))
        return [item for theirs in gathered for item in theirs]

    def checkpoint(self, *, last: bool) -> None:
        """Saves where the settings ask for it, and behind the `last` step of a stage."""
        settings = self.config.checkpoint
        if settings.enabled and (last or self.place.step % settings.every_steps == 0):
            length = self.log.length if self.log is not None else 0
            self.place = self.place.model_copy(update={"metrics_length": length})
            with self.clock.measured("checkpoint"):
                self.checkpoints.save(self.engine, self.place)

    def record_step(
        self, stage: str, step: int, updates: Sequence[Update], seconds: float, **more: float
    ) -> None:
        """Records the step (from 0) of a stage: what its updates gave, and `more`."""
        tokens = sum(update.tokens for update in updates)
        policy_tokens = sum(update.policy_tokens for update in updates)

        def mean(values: Sequence[float]) -> float | None:
            weighted = zip(values, updates, strict=True)
            return (
                sum(value * update.policy_tokens for value, update in weighted) / policy_tokens
                if policy_tokens
                else None
            )

        names = updates[0].means if updates else {}
        self._record(
            stage,
            step=step + 1,
            loss=mean([update.loss for update in updates]),
            gradient_norm=mean([update.gradient_norm for update in updates]),
            tokens=tokens,
            policy_tokens=policy_tokens,
            seconds=seconds,
            update_seconds=sum(update.seconds for update in updates),
            tokens_per_second=tokens / seconds if seconds else 0.0,
            **{name: mean([update.means[name] for update in updates]) for name in names},
            **more,
        )

    def _record(self, stage: str, **values: object) -> None:
        if self.log is not None:
            values.setdefault("step", self.place.step)
            values |= self.clock.taken()
            self.log.record(stage, policy_version=self.place.policy_version, **values)

    def bar(self, label: str, *, done: int = 0, total: int | None = None) -> Bar:
        """A progress bar; silent on other ranks than the first."""
        return Bar(self.console, label, done, total)
