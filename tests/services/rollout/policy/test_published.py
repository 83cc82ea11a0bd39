from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.rollout.policy.published import check_adapter, check_weights
from synthagent.errors import Corrupt, NotFound
from synthagent.model_server import adapter

NORM = "model.norm.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_whole_weights_pass_and_broken_values_do_not(
    tiny_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "w.safetensors"
    state = {k: v.to(dtype) for k, v in load_file(tiny_folder / "model.safetensors").items()}
    state[NORM][0] = torch.finfo(dtype).max
    save_file(state, path)
    check_weights(path, tiny_folder)
    for value in (float("nan"), float("inf"), float("-inf")):
        broken = state[NORM].clone()
        broken[-1] = value
        save_file(state | {NORM: broken}, path)
        with pytest.raises(Corrupt, match=f"{NORM} holds values that are not finite"):
            check_weights(path, tiny_folder)


def test_a_tied_head_may_stand_in_the_file(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = load_file(tiny_folder / "model.safetensors")
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}, path)
    check_weights(path, tiny_folder)


def test_what_does_not_fit_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    state = load_file(tiny_folder / "model.safetensors")
    path = tmp_path / "bad.safetensors"

    def refused(error: type[Exception], sentence: str) -> None:
        with pytest.raises(error, match=sentence):
            check_weights(path, tiny_folder)

    refused(NotFound, "no weights file")
    path.write_bytes(b"not a tensor in sight")
    refused(Corrupt, "is damaged")
    save_file({k: v for k, v in state.items() if k != NORM}, path)
    refused(Corrupt, f"lacks 1 tensors: {NORM}")
    save_file(state | {"extra": torch.zeros(1)}, path)
    refused(Corrupt, "unknown tensors: extra")
    save_file(state | {NORM: torch.zeros(3)}, path)
    refused(Corrupt, r"is \[3\], not \[48\]")
    save_file(state | {NORM: torch.zeros(48, dtype=torch.int32)}, path)
    refused(Corrupt, "of type I32")
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    refused(Corrupt, "is damaged")


def test_an_adapter_is_checked_against_its_configuration_and_the_model(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path, config = tmp_path / adapter.WEIGHTS, b'{"r": 2}'
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    first, second = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
    whole = {first: torch.ones(2, 48), second: torch.zeros(48, 2)}

    def write(state: dict[str, torch.Tensor], vouched: bytes = config) -> Path:
        digest = hashlib.sha256(vouched).hexdigest()
        save_file(state, path, metadata={adapter.CONFIG_DIGEST: digest})
        return path

    with pytest.raises(NotFound, match="no configuration"):
        check_adapter(write(whole), tiny_folder)
    (tmp_path / adapter.CONFIG).write_bytes(config)
    check_adapter(write(whole), tiny_folder)
    for state, vouched, sentence in (
        (whole, b'{"r": 4}', "not the configuration that the adapter was written with"),
        ({"base_model.model.other.lora_A.weight": torch.ones(2, 48)}, config, "no matrix"),
        (whole | {"a": torch.ones(1)}, config, "a belongs to no matrix"),
        (whole | {first: torch.ones(3, 48)}, config, r"F32 \[3, 48\], not \[2, 48\]"),
        ({first: whole[first]}, config, f"lacks {second}"),
        ({second: whole[second]}, config, f"lacks {first}"),
        (whole | {second: torch.full((48, 2), torch.nan)}, config, "values that are not finite"),
    ):
        with pytest.raises(Corrupt, match=sentence):
            check_adapter(write(state, vouched), tiny_folder)
