"""A tiny random Llama, samples for it, and the plain float32 reference to be equalled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trainer.packing import Sample

VOCABULARY = 61


def write_model(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]  # theirs
    (folder / "tokenizer.json").write_text("{}")
    return folder


def load_plain(folder: Path) -> PreTrainedModel:
    return LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def make_sample(rng: np.random.Generator, name: str, prompt: np.ndarray, length: int) -> Sample:
    """A multi-turn episode: policy and observation tokens alternate behind the prompt."""
    rest = rng.integers(0, VOCABULARY, length)
    sampled = rng.random(length) < 0.6
    sampled[0] = True
    mask = np.concatenate([np.zeros(len(prompt), dtype=bool), sampled])
    logprobs = np.where(mask, -rng.random(len(mask)) * 3, 0).astype(np.float32)
    ids = np.concatenate([prompt, rest]).astype(np.int64)
    return Sample(name, ids, mask, logprobs, len(prompt), float(rng.normal()))


def make_groups(
    seed: int = 0, groups: int = 3, size: int = 4, prompt: int = 9, length: int = 14
) -> list[list[Sample]]:
    rng = np.random.default_rng(seed)
    made = []
    for g in range(groups):
        shared = rng.integers(0, VOCABULARY, prompt + g)
        made.append(
            [
                make_sample(rng, f"{g}-{i}", shared, int(rng.integers(3, length)))
                for i in range(size)
            ]
        )
    return made


def plain_logprobs(model: PreTrainedModel, sample: Sample) -> Tensor:
    """Log-probability of each policy token, one sequence at a time, by the definition."""
    ids = torch.from_numpy(sample.token_ids)
    logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
    logprobs = logits.log_softmax(dim=-1)
    positions = np.flatnonzero(sample.policy_mask)
    return torch.stack([logprobs[t - 1, ids[t]] for t in positions])


def plain_grpo_loss(
    model: PreTrainedModel,
    samples: list[Sample],
    low: float = 0.2,
    high: float = 0.28,
) -> Tensor:
    """GRPO's loss written out token by token, as a mean over all policy tokens."""
    terms = []
    for sample in samples:
        old = torch.from_numpy(sample.logprobs[sample.policy_mask])
        for new, before in zip(plain_logprobs(model, sample), old, strict=True):
            ratio = torch.exp(new - before)
            bounded = torch.clamp(ratio, 1 - low, 1 + high)
            terms.append(-torch.min(ratio * sample.advantage, bounded * sample.advantage))
    return torch.stack(terms).mean()
