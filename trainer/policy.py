"""The policy as a module that scores rows: packed attention and chunked log-probabilities.

`PolicyScorer.forward` runs a row through the language model's backbone once and returns the
log-probability of each target at temperature 1. The [positions, vocabulary] logits exist only a
chunk at a time, in the forward and in the backward pass, and only where a token is predicted.
Attention within a row is that of `trainer.attention`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from synthagent.errors import Corrupt, InvalidInput, NotFound
from trainer.attention import ATTENTION
from trainer.packing import TreeSpan


def load_model(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model in `folder`, with packed attention.

    Raises NotFound, and InvalidInput where it is damaged or not whole, or computes its scores
    otherwise than the trainer.
    """
    if not (folder / "config.json").is_file():
        raise NotFound(
            f"no model in {folder}: config.json is missing; "
            "name a folder in the Hugging Face layout or a model that SynthAgent can resolve"
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=ATTENTION,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system; transformers' own, of what a file holds, have no number
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise InvalidInput(
            f"the model in {folder} cannot be loaded: {why}", field="model.name"
        ) from error
    model: PreTrainedModel = loaded[0]
    info: dict[str, Any] = loaded[1]
    if missing := sorted(info["missing_keys"]):  # would be drawn at random
        raise InvalidInput(
            f"the model in {folder} lacks {len(missing)} of its tensors, such as {missing[0]}",
            field="model.name",
        )
    require_plain_head(model)
    return model


def require_plain_head(model: PreTrainedModel) -> None:
    """Raises InvalidInput where the model's logits are not its last hidden states times a matrix.

    Log-probabilities are computed from that matrix alone: a model that scales, caps or shifts its
    logits would be trained towards another one than the engine samples from.
    """
    head = getattr(model, "lm_head", None)
    given: list[Tensor] = []
    if isinstance(head, nn.Linear) and getattr(head, "bias", None) is None:  # typed as a Tensor
        hook = head.register_forward_hook(lambda _, __, output: given.append(output))
        tokens = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False, trees=(TreeSpan((0, 2), ()),)).logits
        hook.remove()
        if torch.equal(given[0].float(), logits.float()):
            return
    raise InvalidInput(
        f"{type(model).__name__} is not supported: its logits are not its last hidden states times "
        "one matrix (they are scaled, capped or shifted); choose another model",
        field="model.name",
    )


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


class _ChunkedScores(torch.autograd.Function):
    """Log-probabilities and entropies of targets; logits [chunk, vocabulary] at a time, in float32.

    With z the logits, p their softmax and H its entropy, d log p_t / dz = 1_t - p and
    dH / dz = -p (log p + H). Going back, logits are computed anew and become their own gradient.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes them in order
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        with_entropy: bool,  # noqa: FBT001 - as torch passes them
    ) -> tuple[Tensor, Tensor]:
        """Both [n], float32; the entropies take part in differentiation only `with_entropy`."""
        normalisers, logprobs, entropies = [], [], []
        for part, wanted in zip(
            torch.split(hidden, chunk), torch.split(targets, chunk), strict=True
        ):
            logits = functional.linear(part, weight).float()
            most = logits.amax(dim=-1, keepdim=True)
            powers = (logits - most).exp_()
            total = powers.sum(dim=-1)
            normaliser = most[:, 0] + total.log()
            mean_logit = torch.bmm(powers[:, None, :], logits[:, :, None])[:, 0, 0] / total
            normalisers.append(normaliser)
            logprobs.append(logits.gather(-1, wanted[:, None])[:, 0] - normaliser)
            entropies.append(normaliser - mean_logit)
        entropy = torch.cat(entropies)
        ctx.chunk, ctx.with_entropy = chunk, with_entropy
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers), entropy)
        if not with_entropy:
            ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, entropy_slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden and weight, where they are asked for."""
        hidden, weight, targets, normaliser, entropy = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient = None
        for start in range(0, len(targets), ctx.chunk):
            own = slice(start, start + ctx.chunk)
            logprobs = functional.linear(hidden[own], weight).float() - normaliser[own, None]
            gradient = logprobs.exp()
            if ctx.with_entropy:
                inner = logprobs.add_(entropy[own, None]).mul_(-entropy_slope[own, None])
                gradient.mul_(inner.sub_(slope[own, None]))
            else:
                gradient.mul_(-slope[own, None])
            del logprobs
            gradient.scatter_add_(-1, targets[own, None], slope[own, None])
            gradient = gradient.to(weight.dtype)
            if hidden_gradient is not None:
                hidden_gradient[own] = gradient @ weight
            if wants_weight:
                part = gradient.T @ hidden[own]
                if weight_gradient is None:
                    # Chunks are added up in float32: rounded sums would lose small gradients.
                    weight_gradient = part.float() if len(targets) > ctx.chunk else part
                else:
                    weight_gradient.add_(part)
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight.dtype)
        return hidden_gradient, weight_gradient, None, None, None


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
        scores: tuple[Tensor, Tensor] = _ChunkedScores.apply(  # type: ignore[no-untyped-call]  # torch's
            hidden, self.weight, targets, self.chunk, self.entropy_gradient
        )
        return scores


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
