"""The policy as a module that scores rows: packed attention and chunked log-probabilities.

`PolicyScorer.forward` runs a row through the language model's backbone once and returns the
log-probability of each target at temperature 1. The [positions, vocabulary] logits exist only a
chunk at a time, in the forward and in the backward pass, and only where a token is predicted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from synthagent.errors import Corrupt, NotFound
from trainer.packing import TreeSpan

ATTENTION = "packed_trees"


def packed_attention(  # noqa: PLR0917 - called by transformers, in its order
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each tree of a row: a prompt to itself, a branch to its prompt and itself.

    `query` is [1, heads, tokens, width], `key` and `value` [1, key heads, tokens, width]; the
    result is [1, tokens, heads, width]. Expects `trees` among the keywords. Work grows with the
    sum of (prompt + branch) x branch, not with the square of the row.
    """
    del (
        attention_mask,
        dropout,
    )  # the trees say what attends to what; policies train without dropout
    trees: tuple[TreeSpan, ...] = kwargs["trees"]
    dtype = query.dtype
    if query.device.type == "cpu":
        # On CPUs the float32 kernel is faster backward than the bfloat16 one (32 ms instead of 50
        # for 530 tokens of 9 heads of width 64 on one core), and more exact.
        query, key, value = query.float(), key.float(), value.float()
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    attend = functional.scaled_dot_product_attention
    pieces = []
    for tree in trees:
        prompt = slice(*tree.prompt)
        prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
        pieces.append(
            attend(query[:, :, prompt], prompt_key, prompt_value, is_causal=True, scale=scaling)
        )
        for start, end in tree.branches:
            branch = slice(start, end)
            keys = torch.cat((prompt_key, key[:, :, branch]), dim=2)
            values = torch.cat((prompt_value, value[:, :, branch]), dim=2)
            seen = torch.ones(end - start, keys.shape[2], dtype=torch.bool, device=query.device)
            seen = seen.tril(keys.shape[2] - (end - start))
            pieces.append(attend(query[:, :, branch], keys, values, attn_mask=seen, scale=scaling))
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous().to(dtype), None


AttentionInterface.register(ATTENTION, packed_attention)


def load_model(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model in `folder`, with packed attention. Raises NotFound."""
    if not (folder / "config.json").is_file():
        raise NotFound(
            f"no model in {folder}: config.json is missing; "
            "name a folder in the Hugging Face layout or a model that SynthAgent can resolve"
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
    )
    return model


def load_weights(model: PreTrainedModel, file: Path) -> None:
    """Puts the weights of a file that `trainer.weights` wrote into a model. Raises Corrupt."""
    try:
        state = load_file(file)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Corrupt(f"the weights {file} do not fit the model: {error}") from error
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise Corrupt(f"the weights {file} are not those of this model")


def freeze_lower_layers(model: PreTrainedModel, trainable_layers: int | None) -> None:
    """Leaves the last `trainable_layers` layers and the final norm to train; None leaves all.

    Frozen layers cost no backward pass, no activations and no optimizer state.
    """
    decoder: Any = model.base_model
    layers = decoder.layers
    if trainable_layers is None or trainable_layers >= len(layers):
        return
    model.requires_grad_(requires_grad=False)
    for module in (*layers[-trainable_layers:], decoder.norm):
        module.requires_grad_(requires_grad=True)


class ScoringHead(nn.Linear):
    """The output head, from hidden states straight to log-probabilities.

    One call of the module per row, whatever the number of chunks: under ZeRO-3 a call gathers the
    weight on all ranks, so all must call equally often.
    """

    def __init__(self, head: nn.Linear, *, chunk: int, entropy_gradient: bool) -> None:
        """Takes over `head`'s weight, tied or not."""
        with torch.device("meta"):
            super().__init__(head.in_features, head.out_features, bias=False)
        self.weight = head.weight
        self.chunk = chunk
        self.entropy_gradient = entropy_gradient

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # it scores
        """Log-probabilities and entropies [n] of `targets` [n] at `hidden` [n, width]."""
        parts = [
            checkpoint(self._score, part, wanted, use_reentrant=False)
            for part, wanted in zip(
                torch.split(hidden, self.chunk), torch.split(targets, self.chunk), strict=True
            )
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional.linear(hidden, self.weight).float()
        normaliser = logits.logsumexp(dim=-1)
        logprobs = logits.gather(-1, targets[:, None])[:, 0] - normaliser
        with torch.set_grad_enabled(self.entropy_gradient and torch.is_grad_enabled()):
            entropy = normaliser - (logits.softmax(dim=-1) * logits).sum(dim=-1)
        return logprobs, entropy


class PolicyScorer(nn.Module):
    """A causal language model that returns log-probabilities of chosen targets."""

    def __init__(
        self, model: PreTrainedModel, *, chunk: int, recompute: bool, entropy_gradient: bool = False
    ) -> None:
        """`chunk`: positions whose logits exist at once. `recompute`: gradient checkpointing."""
        super().__init__()
        self.model = model
        model.lm_head = ScoringHead(model.lm_head, chunk=chunk, entropy_gradient=entropy_gradient)
        model.config.use_cache = False
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        trees: tuple[TreeSpan, ...],
        predictors: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [targets], float32, of `targets` read at `predictors`.

        `token_ids` and `position_ids` are [1, tokens].
        """
        hidden = self.model.base_model(
            input_ids=token_ids, position_ids=position_ids, use_cache=False, trees=trees
        ).last_hidden_state[0]
        scores: tuple[Tensor, Tensor]
        if len(predictors):
            scores = self.model.lm_head(hidden[predictors], targets)
            return scores
        # Every parameter takes part, so that ranks without loss still join the reductions.
        scores = self.model.lm_head(hidden[:1], token_ids[0, :1])
        return scores[0][:0], scores[1][:0]
