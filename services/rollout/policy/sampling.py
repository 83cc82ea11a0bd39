"""Tokens and log-probabilities from logits.

Sampling inverts the cumulative distribution at one uniform number, and that number is a function
of (noise seed, position of the token in its sequence) alone. So what a sequence samples does not
depend on what else is in the batch, and an episode that is resumed goes on as it would have. What
remains is rounding: another batch shape may change a probability's last bits, which changes the
token only where the uniform number falls within that error of a boundary.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_CANDIDATES = 1024
"""Most probable tokens looked at first for top_p; all of them where these do not suffice."""


@dataclass(frozen=True)
class Choice:
    """How one token is to be sampled.

    `temperature` 0 takes the most probable token. `top_p` in (0, 1] keeps the smallest set of
    tokens whose probability reaches it. `uniform` in [0, 1) decides.
    """

    temperature: float
    top_p: float
    uniform: float


def uniform(noise_seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same for the same arguments on any machine."""
    seed = noise_seed.to_bytes(16, "little", signed=True)
    digest = hashlib.blake2b(seed + struct.pack("<Q", position), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(logits: Tensor, choices: Sequence[Choice]) -> tuple[list[int], list[float]]:
    """Samples one token per row of float32 logits [n, vocabulary].

    Returns token ids and their log-probabilities at temperature 1 and without truncation, in nats;
    not finite where the logits are not.
    """
    log_probabilities = logits.log_softmax(-1)
    tokens = log_probabilities.argmax(-1)
    drawn = [row for row, choice in enumerate(choices) if choice.temperature > 0]
    plain = [row for row in drawn if choices[row].top_p >= 1]
    if plain:
        tokens[plain] = _invert(
            _tempered(log_probabilities, plain, choices), [choices[row].uniform for row in plain]
        )
    for row in drawn:
        if choices[row].top_p < 1:
            probabilities = _tempered(log_probabilities, [row], choices)[0]
            kept, ids = _nucleus(probabilities, choices[row].top_p)
            tokens[row] = ids[_invert(kept[None], [choices[row].uniform])[0]]
    chosen = log_probabilities.gather(-1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()


def _tempered(log_probabilities: Tensor, rows: list[int], choices: Sequence[Choice]) -> Tensor:
    """Probabilities [rows, vocabulary] at each row's temperature."""
    everything = len(rows) == len(log_probabilities)
    chosen = log_probabilities if everything else log_probabilities[rows]
    temperatures = [choices[row].temperature for row in rows]
    if all(temperature == 1 for temperature in temperatures):
        return chosen.exp()
    return (chosen / torch.tensor(temperatures, device=chosen.device)[:, None]).softmax(-1)


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of the smallest set that reaches top_p, most probable first."""
    size = min(_CANDIDATES, len(probabilities))
    values, ids = probabilities.topk(size)
    if size < len(probabilities) and float(values.sum()) < top_p:
        values, ids = probabilities.sort(descending=True)
    before = values.cumsum(-1) - values
    keep = before < top_p
    keep[0] = True
    return values[keep], ids[keep]


def _invert(probabilities: Tensor, uniforms: list[float]) -> Tensor:
    """Index per row at which the cumulative sum of unnormalised probabilities passes uniform."""
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    targets = torch.tensor(uniforms, dtype=cumulative.dtype, device=cumulative.device)[:, None]
    found = torch.searchsorted(cumulative, targets * total, right=True)
    # Rounding can put the target at the total: then the last token that has any probability.
    last = torch.searchsorted(cumulative, total, right=False)
    # Where logits are not numbers nothing is found; the caller sees it by the log-probability.
    return torch.minimum(found, last).clamp_(max=probabilities.shape[-1] - 1)[:, 0]
