"""Adapters without DeepSpeed: what they adapt, and that their files are peft's.

Training with them, sharded and resumed, is checked in test_engine.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from synthagent.errors import InvalidInput
from synthagent.model_server import adapter
from tests.trainer.tiny import VOCABULARY, load_plain, write_model
from trainer.config import LoraSettings
from trainer.lora import Adapters
from trainer.weights import write_adapter, write_model_folder

IDS = torch.arange(24)[None] % VOCABULARY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def adapted(folder: Path, last: int | None = None) -> tuple[Adapters, PreTrainedModel]:
    """A model whose adapters have learned something."""
    adapters, model = Adapters(LoraSettings(rank=4, alpha=6.0), last), load_plain(folder)
    adapters.attach(model)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapters, model


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


def test_only_adapters_train_and_they_begin_as_nothing(folder: Path) -> None:
    model = load_plain(folder)
    plain = logits(model)
    adapters = Adapters(LoraSettings(rank=4))
    adapters.attach(model)
    assert torch.equal(logits(model), plain)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert len(trained) == 2 * 7 * 2  # layers, matrices, factors
    assert all(".lora_" in name and ".default." in name for name in trained)
    with adapters.reference():
        assert not any(value.requires_grad for value in model.parameters())
    assert trained == [name for name, value in model.named_parameters() if value.requires_grad]


def test_first_values_follow_the_seed_alone(folder: Path) -> None:
    found = []
    for noise, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(noise)
        model = load_plain(folder)
        Adapters(LoraSettings(rank=4, seed=seed)).attach(model)
        state = model.state_dict()
        found.append(state["model.layers.1.mlp.up_proj.lora_A.default.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize("last", [None, 1])
def test_peft_and_transformers_read_what_is_written(
    folder: Path, tmp_path: Path, last: int | None
) -> None:
    adapters, model = adapted(folder, last)
    base, trained = adapters.split(dict(model.named_parameters()))
    base = {name: value.detach() for name, value in base.items()}
    trained = {name: value.detach() for name, value in trained.items()}
    adapters.merge(base, trained)
    config = adapters.config(2)
    out = tmp_path / "out"
    write_model_folder(base, folder, out, adapter=trained, adapter_config=config)
    torch.testing.assert_close(logits(load_plain(out)), logits(model), atol=1e-4, rtol=0)
    read = PeftModel.from_pretrained(load_plain(folder), str(out / "adapter"))
    torch.testing.assert_close(logits(read), logits(model), atol=1e-4, rtol=0)
    described = LoraConfig.from_pretrained(str(out / "adapter"))
    assert described.layers_to_transform == (None if last is None else [1])
    assert (out / "adapter" / adapter.WEIGHTS).is_file()


def test_a_bfloat16_model_keeps_what_its_adapter_learned(folder: Path) -> None:
    adapters, model = adapted(folder)
    state = {name: value.detach().bfloat16() for name, value in model.named_parameters()}
    base, trained = adapters.split(state)
    before = dict(base)
    small = {name: value * 1e-3 for name, value in trained.items()}
    adapters.merge(base, small)
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert base[changed].dtype == torch.float32
    assert torch.equal(base[changed].bfloat16(), before[changed])  # bfloat16 would have lost it
    assert not torch.equal(base[changed], before[changed].float())
    assert base["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_modules_that_are_not_there_are_told(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"lora\.target_modules .*query_key_value"):
        Adapters(LoraSettings(target_modules=("query_key_value",))).attach(load_plain(folder))


def test_folders_appear_whole_and_name_no_shards(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in folder.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}')
    target = tmp_path / "target"
    for _ in range(2):  # a run that is resumed behind its end writes it again
        write_model_folder(
            load_file(folder / "model.safetensors"), source, target, adapter={}, adapter_config=b""
        )
    assert torch.equal(logits(load_plain(target)), logits(load_plain(folder)))
    assert not (target / "model.safetensors.index.json").exists()
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {"source", "target"}


def test_an_adapter_vouches_for_its_configuration(tmp_path: Path) -> None:
    tensors = {"base_model.model.a.lora_A.weight": torch.ones(2, 3)}
    first = write_adapter(tensors, b'{"r": 2, "lora_alpha": 4}', tmp_path / "adapter")
    second = write_adapter(tensors, b'{"r": 2, "lora_alpha": 8}', tmp_path / "adapter")
    assert first != second
    save_file(tensors, tmp_path / "plain.safetensors")
    assert adapter.is_adapter(tmp_path / "adapter" / adapter.WEIGHTS)
    assert not adapter.is_adapter(tmp_path / "plain.safetensors")
