"""This project's trainer on a job, in a process of its own: `python -m ...synthagent_step JOB`.

A step is what the trainer does behind the arrival of a batch: credit, packing, forward, loss,
backward, clipping, optimizer. Prints one JSON object; see `job`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import torch

from benchmarks.trainer.job import Group, Job
from trainer.config import DeepSpeedSettings, ModelSettings, RlSettings
from trainer.credit import give_credit, outcome_of
from trainer.engine import Scores, TrainingEngine, Update
from trainer.objectives import Reinforce
from trainer.packing import Row, pack
from trainer.policy import PolicyScorer, load_model
from trainer.ranks import join_ranks

TOKENS_PER_ROW = 2048


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def settings(job: Job) -> RlSettings:
    """TRL's `dapo` loss without scaling of rewards, in the trainer's own terms."""
    return RlSettings.model_validate(
        {
            "advantage": "group_centred",
            "aggregation": "token",
            "clip_low": job.clip,
            "clip_high": job.clip,
        }
    )


def packed(batch: list[Group], rl: RlSettings, tokens_per_row: int) -> list[Row]:
    """Rows of a batch."""
    episodes = [group.samples(str(number)) for number, group in enumerate(batch)]
    credit = give_credit(episodes, [outcome_of(group, rl) for group in episodes], rl)
    return pack(credit.groups, tokens_per_row)


def main(path: Path) -> None:
    """Runs the job and prints its steps."""
    baseline = resident("VmRSS")
    job = Job.read(path)
    rl = settings(job)
    model = ModelSettings(tokens_per_row=TOKENS_PER_ROW, logits_chunk=128, recompute=True)
    join_ranks(job.threads)
    deepspeed = DeepSpeedSettings.model_validate(
        {
            "stage": 2,
            "precision": job.precision,
            "gradient_clip": job.gradient_clip,
            "adam_beta1": job.adam_betas[0],
            "adam_beta2": job.adam_betas[1],
        }
    )
    engine = TrainingEngine(Path(job.model), model, deepspeed)
    objective = replace(Reinforce.of(rl), on_policy=job.iterations == 1)
    steps: list[dict[str, float]] = []
    for batch in job.batches:
        for iteration in range(job.iterations):
            started = time.perf_counter()
            if not iteration:
                rows = packed(batch, rl, model.tokens_per_row)
                if not objective.on_policy:
                    scores = engine.logprobs(rows)
                    rows = [
                        replace(row, old_logprobs=score.numpy())
                        for row, score in zip(rows, scores, strict=True)
                    ]
            update = engine.update(rows, objective, learning_rate=job.learning_rate)
            steps.append(_figures(update, time.perf_counter() - started))
    engine.close()
    del engine
    plain = plain_seconds(job, rows, objective, model) if job.plain else None
    outcome = {"baseline_bytes": baseline, "steps": steps, "plain_seconds": plain}
    sys.stdout.write(orjson.dumps(outcome).decode() + "\n")


def plain_seconds(
    job: Job, rows: Sequence[Row], objective: Reinforce, model: ModelSettings
) -> float:
    """Seconds of forward and backward over `rows` without DeepSpeed, gradients left in place."""
    language_model = load_model(Path(job.model), dtype=torch.bfloat16)
    scorer = PolicyScorer(language_model, chunk=model.logits_chunk, recompute=model.recompute)
    scorer.train()
    started = time.perf_counter()
    for row in rows:
        arrays = (row.token_ids, row.position_ids, row.predictors, row.targets)
        ids, positions, predictors, targets = map(torch.from_numpy, arrays)
        logprobs, entropies = scorer(ids[None], positions[None], row.trees, predictors, targets)
        along = (
            row.sampled_logprobs,
            row.old_logprobs,
            row.reference_logprobs,
            row.advantages,
            row.weights,
            row.sample_index,
        )
        scores = Scores(logprobs, entropies, *map(torch.from_numpy, along))
        torch.autograd.backward(objective(scores)[0])
    return time.perf_counter() - started


def _figures(update: Update, seconds: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "loss": update.loss,
        "gradient_norm": update.gradient_norm,
        "tokens_computed": update.tokens,
        "peak_bytes": resident("VmHWM"),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
