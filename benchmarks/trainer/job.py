"""What both trainers are told to do: batches of groups, and the settings they share.

A job travels as JSON, because TRL lives in another environment. Each batch is trained on
`iterations` times, one optimizer step each; from the second on, the ratio's denominator is the
policy before the first. The result is one JSON object: `baseline_bytes`, resident after the
imports, and of each step `seconds`, `loss`, `gradient_norm` (before clipping) and `peak_bytes`, the
most that was resident since the process began; ours also has `plain_seconds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from trainer.episodes import Episode
from trainer.packing import Sample


@dataclass(frozen=True)
class TrlOptions:
    """What only TRL knows."""

    batch_size: int = 1
    """Episodes of a forward pass."""
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class EpisodeTokens:
    """An episode behind its prompt; `policy_mask` is 1 on tokens that the policy wrote."""

    token_ids: list[int]
    policy_mask: list[int]
    reward: float


@dataclass(frozen=True)
class Group:
    """Episodes of one prompt."""

    prompt_ids: list[int]
    episodes: list[EpisodeTokens]

    @property
    def tokens(self) -> int:
        """Tokens of its episodes, the prompt counted with each."""
        own = sum(len(episode.token_ids) for episode in self.episodes)
        return own + len(self.prompt_ids) * len(self.episodes)

    def samples(self, name: str) -> list[Episode]:
        """The same as the trainer takes it from a stream."""
        prompt = len(self.prompt_ids)
        return [
            Episode(
                Sample(
                    f"{name}.{number}",
                    np.array(self.prompt_ids + episode.token_ids),
                    np.array([0] * prompt + episode.policy_mask, dtype=bool),
                    np.zeros(prompt + len(episode.token_ids), np.float32),
                    prompt,
                ),
                episode.reward,
            )
            for number, episode in enumerate(self.episodes)
        ]

    def shortened(self, most: int) -> Group:
        """The same with at most so many tokens of each episode, and distinct rewards."""
        return Group(
            self.prompt_ids[-most:],
            [
                EpisodeTokens(episode.token_ids[:most], episode.policy_mask[:most], float(number))
                for number, episode in enumerate(self.episodes)
            ],
        )


@dataclass(frozen=True)
class Job:
    """One process's work."""

    model: str
    threads: int
    batches: list[list[Group]]
    precision: str = "bfloat16"
    iterations: int = 1
    learning_rate: float = 1e-6
    clip: float = 0.2
    gradient_clip: float = 1.0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    trl: TrlOptions = TrlOptions()
    plain: bool = False
    """Ours: whether to time forward and backward of the last batch alone, as well."""

    def write(self, path: Path) -> None:
        """Writes the job as JSON."""
        path.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job that `write` wrote."""
        content = orjson.loads(path.read_bytes())
        batches = [
            [
                Group(group["prompt_ids"], [EpisodeTokens(**e) for e in group["episodes"]])
                for group in batch
            ]
            for batch in content["batches"]
        ]
        more = {"batches": batches, "trl": TrlOptions(**content["trl"])}
        return cls(**{**content, **more, "adam_betas": tuple(content["adam_betas"])})


def group_of(episodes: Sequence[Episode]) -> Group:
    """A stream's group as tokens. Raises ValueError where its episodes differ in prompt."""
    first = episodes[0].sample
    prompt = first.token_ids[: first.prompt_tokens].tolist()
    made = []
    for episode in episodes:
        ids, mask = episode.sample.token_ids.tolist(), episode.sample.policy_mask
        if ids[: len(prompt)] != prompt or episode.reward is None:
            raise ValueError(f"{episode.sample.sample_id} does not belong to its group")
        own = mask[len(prompt) :].astype(int).tolist()
        made.append(EpisodeTokens(ids[len(prompt) :], own, episode.reward))
    return Group(prompt, made)
