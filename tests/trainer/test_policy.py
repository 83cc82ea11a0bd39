"""Packed rows score exactly like plain sequences: log-probabilities, loss and every gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GraniteConfig, GraniteForCausalLM

from synthagent.errors import InvalidInput, NotFound
from tests.trainer.tiny import (
    VOCABULARY,
    load_plain,
    make_groups,
    plain_grpo_loss,
    plain_logprobs,
    write_model,
)
from trainer.loss import Clipping, imitation_loss, policy_loss
from trainer.packing import Row, blank_row, pack
from trainer.policy import PolicyScorer, ScoringHead, freeze_lower_layers, load_model

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def scorer(folder: Path, *, chunk: int = 7, recompute: bool = False) -> PolicyScorer:
    model = load_model(folder, dtype=torch.float32)
    return PolicyScorer(model, chunk=chunk, recompute=recompute).train()


def score(module: PolicyScorer, row: Row) -> Tensor:
    ids, positions = torch.from_numpy(row.token_ids), torch.from_numpy(row.position_ids)
    predictors, targets = torch.from_numpy(row.predictors), torch.from_numpy(row.targets)
    logprobs: Tensor = module(ids[None], positions[None], row.trees, predictors, targets)[0]
    return logprobs


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens_per_row", [16, 40, 1000])
def test_logprobs_of_rows_equal_those_of_plain_sequences(folder: Path, tokens_per_row: int) -> None:
    groups = make_groups()
    plain, packed = load_plain(folder), scorer(folder)
    by_name = {sample.sample_id: sample for group in groups for sample in group}
    rows = pack(groups, tokens_per_row)
    seen = set()
    for row in rows:
        found = score(packed, row)
        for index, name in enumerate(row.sample_ids):
            expected = plain_logprobs(plain, by_name[name])
            torch.testing.assert_close(
                found[torch.from_numpy(row.sample_index) == index], expected, atol=TOLERANCE, rtol=0
            )
            seen.add(name)
    assert seen == set(by_name)


@pytest.mark.parametrize("recompute", [False, True])
def test_grpo_loss_and_gradients_equal_the_plain_reference(
    folder: Path,
    recompute: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    groups = make_groups()
    samples = [sample for group in groups for sample in group]
    plain, packed = load_plain(folder), scorer(folder, recompute=recompute)
    expected = plain_grpo_loss(plain, samples)
    torch.autograd.backward(expected)
    tokens = sum(sample.policy_tokens for sample in samples)
    total = 0.0
    for row in pack(groups, 60):
        loss = policy_loss(
            score(packed, row),
            torch.from_numpy(row.old_logprobs),
            torch.from_numpy(row.advantages),
            Clipping(0.2, 0.28),
        )
        torch.autograd.backward(loss.total / tokens)
        total += float(loss.total.detach()) / tokens
    assert total == pytest.approx(expected.item(), abs=TOLERANCE)
    found, wanted = gradients(packed.model), gradients(plain)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=TOLERANCE, rtol=1e-5, msg=name)


def test_imitation_loss_and_gradients_equal_the_plain_reference(folder: Path) -> None:
    samples = [group[0] for group in make_groups()]
    plain, packed = load_plain(folder), scorer(folder)
    expected = -torch.cat([plain_logprobs(plain, sample) for sample in samples]).mean()
    torch.autograd.backward(expected)
    (row,) = pack([[sample] for sample in samples], 1000)
    loss = imitation_loss(score(packed, row)) / len(row.targets)
    torch.autograd.backward(loss)
    torch.testing.assert_close(loss, expected, atol=TOLERANCE, rtol=0)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(
            gradients(packed.model)[name], gradient, atol=TOLERANCE, rtol=1e-5, msg=name
        )


def test_a_branch_does_not_see_its_siblings(folder: Path) -> None:
    group = make_groups(groups=1, size=3)[0]
    packed = scorer(folder)
    (alone,) = pack([[group[0]]], 1000)
    (together,) = pack([group], 1000)
    position = together.sample_ids.index(group[0].sample_id)
    own = score(packed, together)[torch.from_numpy(together.sample_index) == position]
    torch.testing.assert_close(own, score(packed, alone), atol=TOLERANCE, rtol=0)


def test_entropy_is_that_of_the_whole_distribution(folder: Path) -> None:
    sample = make_groups(groups=1, size=1)[0][0]
    (row,) = pack([[sample]], 1000)
    packed, plain = scorer(folder), load_plain(folder)
    found = packed(
        torch.from_numpy(row.token_ids)[None],
        torch.from_numpy(row.position_ids)[None],
        row.trees,
        torch.from_numpy(row.predictors),
        torch.from_numpy(row.targets),
    )[1]
    logits = plain(input_ids=torch.from_numpy(sample.token_ids)[None]).logits[0]
    at = np.flatnonzero(sample.policy_mask) - 1
    expected = torch.distributions.Categorical(logits=logits[at]).entropy()  # type: ignore[no-untyped-call]  # torch's is
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_blank_row_gives_no_loss_and_zero_gradients_everywhere(folder: Path) -> None:
    packed = scorer(folder)
    logprobs = score(packed, blank_row())
    assert logprobs.shape == (0,)
    torch.autograd.backward(logprobs.sum())
    found = gradients(packed.model)
    assert found.keys() == dict(packed.model.named_parameters()).keys()
    assert all(not gradient.any() for gradient in found.values())


def test_frozen_layers_do_not_train_and_the_others_do_as_before(folder: Path) -> None:
    (row,) = pack(make_groups(groups=1), 1000)
    whole, upper = scorer(folder), scorer(folder)
    freeze_lower_layers(upper.model, 1)
    for module in (whole, upper):
        torch.autograd.backward(imitation_loss(score(module, row)))
    found, wanted = gradients(upper.model), gradients(whole.model)
    assert {name.split(".layers.")[-1][0] for name in found if ".layers." in name} == {"1"}
    assert "model.norm.weight" in found
    assert "model.embed_tokens.weight" not in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json is missing"):
        load_model(tmp_path, dtype=torch.float32)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Notes the most elements that any tensor has that is made beneath it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.elements = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return made


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_chunked_scores_equal_those_of_all_logits_at_once_and_never_hold_them(
    entropy_gradient: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    torch.manual_seed(0)
    tokens, width, vocabulary, chunk = 50, 6, 200, 8
    plain = torch.nn.Linear(width, vocabulary, bias=False)
    head = ScoringHead(plain, chunk=chunk, entropy_gradient=entropy_gradient)
    hidden = torch.randn(tokens, width, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    slopes = torch.randn(2, tokens)

    def loss(logprobs: Tensor, entropies: Tensor) -> Tensor:
        total = (logprobs * slopes[0]).sum()
        return total + (entropies * slopes[1]).sum() if entropy_gradient else total

    logprobs = plain(hidden).log_softmax(dim=-1)
    entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
    taken = logprobs.gather(-1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad(loss(taken, entropies), (hidden, plain.weight))
    with LargestTensor() as largest:
        found_logprobs, found_entropies = head(hidden, targets)
        found = torch.autograd.grad(loss(found_logprobs, found_entropies), (hidden, head.weight))
    torch.testing.assert_close(found_logprobs, taken, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(found_entropies, entropies, atol=TOLERANCE, rtol=0)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)
    # A chunk's logits are the largest; all logits would be 50 x 200.
    assert largest.elements == chunk * vocabulary


def test_recomputing_activations_changes_no_gradient(folder: Path) -> None:
    (row,) = pack(make_groups(groups=1), 1000)
    kept, recomputed = scorer(folder), scorer(folder, recompute=True)
    for module in (kept, recomputed):
        torch.autograd.backward(imitation_loss(score(module, row)))
    found = gradients(recomputed.model)
    for name, gradient in gradients(kept.model).items():
        assert torch.equal(found[name], gradient), name


def test_bfloat16_scores_within_its_rounding(folder: Path) -> None:
    (row,) = pack(make_groups(groups=1), 1000)
    exact = score(scorer(folder), row)
    model = load_model(folder, dtype=torch.bfloat16)
    rounded = score(PolicyScorer(model, chunk=7, recompute=False).train(), row)
    assert rounded.dtype == torch.float32
    # Eight bits of precision: about one part in 256 of logits that reach 10, through two layers.
    torch.testing.assert_close(rounded, exact, atol=0.2, rtol=0)
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("config.json", b"{", "cannot be loaded: .* is not a valid JSON file$"),
        ("config.json", b'{"model_type": "llamo"}', "cannot be loaded: .*llamo"),
        ("model.safetensors", b"x", "cannot be loaded: .*header too small"),
        (
            "model.safetensors",
            save({"model.norm.weight": torch.ones(32)}),
            r"lacks \d+ of its tensors, such as lm_head.weight",
        ),
        (
            "model.safetensors",
            save({"model.norm.weight": torch.ones(31)}),
            "cannot be loaded: .*",
        ),
    ],
)
def test_a_model_that_is_damaged_is_refused(
    tmp_path: Path, file: str, content: bytes, complaint: str
) -> None:
    write_model(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InvalidInput, match=complaint):
        load_model(tmp_path, dtype=torch.float32)


def test_a_model_that_scales_its_logits_is_refused(tmp_path: Path) -> None:
    config = GraniteConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        logits_scaling=8.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]  # theirs
    with pytest.raises(InvalidInput, match="GraniteForCausalLM is not supported: its logits"):
        load_model(tmp_path, dtype=torch.float32)
