"""ZeRO 1, 2 and 3, alone and on two ranks, train like plain float32 PyTorch; a resume changes
nothing. Two processes launches check all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.trainer.tiny import load_plain, make_groups, plain_grpo_loss, write_model
from tests.trainer.zero_worker import CLIP, EPSILON, RATES
from trainer.engine import learning_rate

STAGES = (1, 2, 3)
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
        launcher = (
            [sys.executable, "-m"]
            if ranks == 1
            else [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", str(ranks), "-m"),
            ]
        )
        done = subprocess.run(
            [*launcher, "tests.trainer.zero_worker", str(model), str(out)],
            check=False,
            capture_output=True,
            text=True,
            timeout=110,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        folders[ranks] = out
    return folders


@pytest.fixture(scope="module")
def reference(model: Path) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, gradient norms and final weights of plain PyTorch with torch's AdamW."""
    plain = load_plain(model).train()
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
    return losses, norms, dict(plain.named_parameters())


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_gradient_norms_equal_plain_pytorch(
    outputs: dict[int, Path],
    reference: tuple[list[float], list[float], dict[str, Tensor]],
    stage: int,
    ranks: int,
) -> None:
    losses, norms, _ = reference
    found = orjson.loads((outputs[ranks] / "updates.json").read_bytes())
    for number in range(len(RATES)):
        loss, norm, tokens = found[f"stage{stage}-step{number}"]
        assert loss == pytest.approx(losses[number], abs=1e-5)
        assert norm == pytest.approx(norms[number], rel=1e-4)
        groups = make_groups(seed=number)
        assert tokens == sum(s.policy_tokens for group in groups for s in group)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", STAGES)
def test_weights_after_training_equal_plain_pytorch(
    outputs: dict[int, Path],
    reference: tuple[list[float], list[float], dict[str, Tensor]],
    stage: int,
    ranks: int,
) -> None:
    wanted = reference[2]
    found = load_file(outputs[ranks] / f"stage{stage}.safetensors")
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight.detach(), atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_step_is_the_same_to_the_last_bit(
    outputs: dict[int, Path], stage: int, ranks: int
) -> None:
    went_on = load_file(outputs[ranks] / f"stage{stage}.safetensors")
    resumed = load_file(outputs[ranks] / f"stage{stage}-resumed.safetensors")
    for name, weight in went_on.items():
        assert torch.equal(resumed[name], weight), name


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(s, peak=1.0, warmup=3, total=10, final_fraction=0.1) for s in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(50, peak=0.5, warmup=0) == 0.5
