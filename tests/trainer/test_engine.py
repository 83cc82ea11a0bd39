"""ZeRO 1, 2 and 3, alone and on two ranks, train like plain float32 PyTorch; a resume changes
nothing. Two processes launches check all of it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import orjson
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.trainer import zero_worker
from tests.trainer.agreement import UPDATES
from tests.trainer.processes import work_on_ranks
from tests.trainer.tiny import (
    load_plain,
    make_groups,
    plain_grpo_loss,
    plain_logprobs,
    write_model,
)
from tests.trainer.zero_worker import CLIP, EPSILON, LORA, RATES, VARIANTS, settings
from trainer import config as configuration
from trainer.config import ModelSettings, RunSettings, TrainerConfig
from trainer.engine import learning_rate
from trainer.export import export

RANKS = (1, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def outputs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What the workers left, by number of ranks."""
    folders = {}
    for ranks in RANKS:
        out = tmp_path_factory.mktemp(f"ranks-{ranks}")
        work_on_ranks(zero_worker.main, (model, out), ranks)
        folders[ranks] = out
    return folders


@pytest.fixture(scope="module")
def reference(model: Path) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, gradient norms and final weights of plain PyTorch with torch's AdamW."""
    plain = load_plain(model).train()
    losses, norms = train_plainly(plain)
    return losses, norms, dict(plain.named_parameters())


@pytest.fixture(scope="module")
def lora_reference(model: Path) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """The same of peft's own model around a plain one, and its weights with adapters added."""
    torch.manual_seed(LORA.seed)
    names = list(LORA.target_modules)
    config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=names)  # type: ignore[arg-type]  # a float divides as well
    plain = get_peft_model(load_plain(model).train(), config)
    losses, norms = train_plainly(cast("PreTrainedModel", plain))
    merged = plain.merge_and_unload()
    return losses, norms, dict(merged.named_parameters())


def train_plainly(plain: PreTrainedModel) -> tuple[list[float], list[float]]:
    torch.set_num_threads(1)  # more would wait for each other where other tests have the cores
    optimizer = torch.optim.AdamW(
        plain.parameters(), lr=0.0, betas=(0.9, 0.999), eps=EPSILON, weight_decay=0.0
    )
    losses, norms = [], []
    for number, rate in enumerate(RATES):
        optimizer.zero_grad()
        loss = plain_grpo_loss(plain, [s for group in make_groups(seed=number) for s in group])
        torch.autograd.backward(loss)
        norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), CLIP).item())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.fixture
def wanted(
    request: pytest.FixtureRequest, variant: str
) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """What plain PyTorch found for this variant."""
    _, adapted = VARIANTS[variant]
    name = "lora_reference" if adapted else "reference"
    found: tuple[list[float], list[float], dict[str, Tensor]] = request.getfixturevalue(name)
    return found


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradient_norms_equal_plain_pytorch(
    outputs: dict[int, Path],
    wanted: tuple[list[float], list[float], dict[str, Tensor]],
    variant: str,
    ranks: int,
) -> None:
    losses, norms, _ = wanted
    found = orjson.loads((outputs[ranks] / "updates.json").read_bytes())
    for number in range(len(RATES)):
        loss, norm, tokens = found[f"{variant}-step{number}"]
        assert loss == pytest.approx(losses[number], abs=1e-5)
        assert norm == pytest.approx(norms[number], rel=1e-4)
        groups = make_groups(seed=number)
        assert tokens == sum(s.policy_tokens for group in groups for s in group)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_after_training_equal_plain_pytorch(
    outputs: dict[int, Path],
    wanted: tuple[list[float], list[float], dict[str, Tensor]],
    variant: str,
    ranks: int,
) -> None:
    weights = wanted[2]
    found = load_file(outputs[ranks] / f"{variant}.safetensors")
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight.detach(), atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_step_is_the_same_to_the_last_bit(
    outputs: dict[int, Path], variant: str, ranks: int
) -> None:
    went_on = load_file(outputs[ranks] / f"{variant}.safetensors")
    resumed = load_file(outputs[ranks] / f"{variant}-resumed.safetensors")
    for name, weight in went_on.items():
        assert torch.equal(resumed[name], weight), name


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_of_any_ranks_exports_as_the_run_does(
    outputs: dict[int, Path], model: Path, tmp_path: Path, variant: str, ranks: int
) -> None:
    stage, adapted = VARIANTS[variant]
    run = outputs[ranks] / variant
    config = TrainerConfig(
        run=RunSettings(folder=run),
        model=ModelSettings(name=str(model)),
        deepspeed=settings(stage),
        lora=LORA.model_copy(update={"enabled": adapted}),
    )
    configuration.write(config, run / "config.toml")
    assert export(run, tmp_path / "out").step == 2
    written = {p.relative_to(run / "at-checkpoint") for p in (run / "at-checkpoint").rglob("*")}
    assert {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")} == written
    for name in sorted(path for path in written if path.suffix == ".safetensors"):
        wanted = load_file(run / "at-checkpoint" / name)
        found = load_file(tmp_path / "out" / name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], value) for key, value in wanted.items()), name
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    samples = {sample.sample_id: sample for group in make_groups(seed=9) for sample in group}
    scored = torch.load(run / "logprobs.pt")
    assert scored
    for sample_id, logprobs in scored.items():
        with torch.no_grad():
            expected = plain_logprobs(plain, samples[sample_id])
        torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "largest", "mean"),
    [
        ("float32 whole", 1e-4, 1e-5),
        ("float32 lora", 1e-4, 1e-5),
        # Both in bfloat16, on a model whose wide weights make the most of rounding; 0.02 on average
        # for SmolLM2-135M.
        ("bfloat16 whole", 4.0, 0.15),
    ],
)
def test_the_engine_that_samples_agrees_with_the_trainer_after_every_update(
    outputs: dict[int, Path], kind: str, largest: float, mean: float
) -> None:
    found = orjson.loads((outputs[1] / "agreement.json").read_bytes())[kind]
    assert len(found["largest"]) == UPDATES + 1
    assert max(found["largest"]) < largest
    assert max(found["mean"]) < mean
    assert min(found["moved"]) > 3 * max(found["mean"])  # else it would prove nothing


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(s, peak=1.0, warmup=3, total=10, final_fraction=0.1) for s in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(50, peak=0.5, warmup=0) == 0.5
