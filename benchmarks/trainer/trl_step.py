"""TRL's GRPOTrainer on given trajectories, in its own environment: `python trl_step.py JOB`.

It is TRL's own training loop; only generation is replaced, by a `rollout_func` that hands out the
job's trajectories, and its time is subtracted. So a step holds all that TRL does behind it:
forward, loss, backward, clipping, optimizer, and its metrics. Prints one JSON object; see `job.py`,
which this file cannot import.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Steps(TrainerCallback):
    """Seconds of every optimizer step without generation, and what TRL logs of it."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.steps: list[dict[str, float]] = []
        self.generating = 0.0
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The first micro-batch follows."""
        self.generating, self._started = 0.0, time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimizer has stepped."""
        seconds = time.perf_counter() - self._started - self.generating
        self.steps.append({"seconds": seconds, "peak_bytes": resident("VmHWM")})

    def on_log(self, *_: Any, **given: Any) -> None:
        """Takes the figures of the step that has just ended."""
        logs = given["logs"]
        for name, theirs in (("loss", "loss"), ("gradient_norm", "grad_norm")):
            if theirs in logs:
                self.steps[-1][name] = float(logs[theirs])


def main(path: Path) -> None:
    """Runs the job and prints its steps."""
    job = json.loads(path.read_bytes())
    torch.set_num_threads(job["threads"])
    baseline = resident("VmRSS")
    groups = [group for batch in job["batches"] for group in batch]
    size = len(groups[0]["episodes"])
    episodes = len(job["batches"][0]) * size

    def rollout(prompts: list[str], _trainer: GRPOTrainer) -> dict[str, Any]:
        chosen = [
            (group, group["episodes"][place % size])
            for place, prompt in enumerate(prompts)
            for group in [groups[int(prompt)]]
        ]
        return {
            "prompt_ids": [group["prompt_ids"] for group, _ in chosen],
            "completion_ids": [episode["token_ids"] for _, episode in chosen],
            "env_mask": [episode["policy_mask"] for _, episode in chosen],
            "logprobs": [[0.0] * len(episode["token_ids"]) for _, episode in chosen],
            "reward": [episode["reward"] for _, episode in chosen],
        }

    def reward(reward: list[float], **_: Any) -> list[float]:
        return reward

    record = Steps()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=job["model"],
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=job["precision"] == "bfloat16",
                model_init_kwargs={"dtype": "float32"},
                per_device_train_batch_size=job["trl"]["batch_size"],
                gradient_accumulation_steps=episodes // job["trl"]["batch_size"],
                gradient_checkpointing=job["trl"]["gradient_checkpointing"],
                num_generations=size,
                num_iterations=job["iterations"],
                max_steps=len(job["batches"]) * job["iterations"],
                loss_type="dapo",
                scale_rewards="none",
                beta=0.0,
                epsilon=job["clip"],
                learning_rate=job["learning_rate"],
                lr_scheduler_type="constant",
                adam_beta1=job["adam_betas"][0],
                adam_beta2=job["adam_betas"][1],
                weight_decay=0.0,
                max_grad_norm=job["gradient_clip"],
                logging_steps=1,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                shuffle_dataset=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(len(groups))]}),
            processing_class=AutoTokenizer.from_pretrained(job["model"], padding_side="left"),
            rollout_func=rollout,
            callbacks=[record],
        )
        produce = trainer._generate_and_score_completions  # noqa: SLF001 - the place to cut

        @functools.wraps(produce)
        def produced(inputs: Any) -> Any:
            started = time.perf_counter()
            made = produce(inputs)
            record.generating += time.perf_counter() - started
            return made

        trainer._generate_and_score_completions = produced  # noqa: SLF001 - as above
        trainer.train()
    sys.stdout.write(json.dumps({"baseline_bytes": baseline, "steps": record.steps}) + "\n")


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main(Path(sys.argv[1]))
