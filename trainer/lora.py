"""Low-rank adapters by peft: what trains is small, the base stays as it was loaded.

`Adapters` lives as long as the engine. `attach` puts two adapters into the model before DeepSpeed
shards it: one that trains, and one that never does and serves as the reference of KL and DPO, so
no second copy of the model is held. An adapter's second factor is zero at first: until
`hold_reference` fills it, the reference is the base with its adapters off, to the last bit.

Files are in peft's layout; merged matrices are float32, because a bfloat16 matrix swallows an
update that is smaller than a 256th of it. LoRA: Hu et al. 2021, equation 3: W + alpha / rank B A.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepspeed
import orjson
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from synthagent.errors import Corrupt, InvalidInput
from trainer.config import LoraSettings

if TYPE_CHECKING:
    from trainer.engine import TrainingEngine

TRAINED = "default"
"""peft's name of the adapter that trains; files leave it out."""

_REFERENCE = "reference"
_FACTORS = ("lora_A", "lora_B")
_PREFIX = "base_model.model."
"""Before every module's name in an adapter's file."""


class Adapters:
    """The adapters of one model."""

    def __init__(self, settings: LoraSettings, trainable_layers: int | None = None) -> None:
        """`trainable_layers`: adapt only so many of the last layers; None adapts all."""
        self.settings = settings
        self._trainable_layers = trainable_layers
        self._layers: dict[str, LoraLayer] = {}

    def attach(self, model: PreTrainedModel) -> None:
        """Freezes `model` and adapts its matrices.

        Raises InvalidInput where no module has one of the names in `lora.target_modules`.
        """
        config = self._config(int(model.config.num_hidden_layers))
        # The same first values on every rank and after a resume, whatever was drawn before.
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            try:
                tuner = LoraModel(model, config, TRAINED)
                tuner.peft_config[_REFERENCE] = config
                tuner.inject_adapter(model, _REFERENCE)
            except ValueError as error:
                raise InvalidInput(
                    f"lora.target_modules does not fit the model: {error}",
                    field="lora.target_modules",
                ) from error
        self._layers = {
            name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
        }
        for adapter in (TRAINED, _REFERENCE):
            for _, parameter in self._parameters(adapter):
                parameter.data = parameter.data.to(model.dtype)
        self._activate(TRAINED)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model computes as the reference; for scoring without gradient."""
        self._activate(_REFERENCE)
        try:
            yield
        finally:
            self._activate(TRAINED)

    def hold_reference(self, engine: TrainingEngine, weights: Path | None) -> None:
        """Takes an adapter file for the reference; None means the base. On all ranks.

        Raises Corrupt.
        """
        held = None if weights is None else _read(weights)
        for name, parameter in self._parameters(_REFERENCE):
            if held is not None and name not in held:
                raise Corrupt(f"the reference {weights} is not an adapter of this model: no {name}")
            whole = (
                deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
                if engine.stage == 3
                else nullcontext()
            )
            with whole, torch.no_grad():
                if held is None:
                    parameter.zero_()
                else:
                    parameter.copy_(held[name])

    def gather(self, engine: TrainingEngine) -> dict[str, Tensor]:
        """The trained adapter in peft's names, on the CPU of rank 0; empty elsewhere."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters(TRAINED):
            with engine.gathered(parameter) as whole:
                if engine.ranks.first:
                    tensors[name] = whole.detach().to("cpu", copy=True).contiguous()
        return tensors

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """An adapted model's parameters in the names of files: the base and the adapter."""
        base: dict[str, Tensor] = {}
        adapter: dict[str, Tensor] = {}
        for name, value in state.items():
            module, found, rest = name.partition(".lora_")
            if not found:
                base[name.replace(".base_layer.", ".")] = value
            elif rest[1:] == f".{TRAINED}.weight":
                adapter[_name(module, f"lora_{rest[0]}")] = value
        return base, adapter

    def merge(self, base: dict[str, Tensor], adapter: Mapping[str, Tensor]) -> None:
        """Adds an adapter to the matrices of `base` that it adapts; these become float32."""
        scale = self.settings.alpha / self.settings.rank
        for name, first in adapter.items():
            module, found, _ = name.removeprefix(_PREFIX).partition(".lora_A.")
            if found:
                second = adapter[_name(module, "lora_B")]
                matrix = base[f"{module}.weight"].float()
                base[f"{module}.weight"] = matrix + scale * (second.float() @ first.float())

    def config(self, layers: int) -> bytes:
        """An adapter's adapter_config.json, as peft writes it, for a model of so many layers."""
        content = self._config(layers).to_dict()  # type: ignore[no-untyped-call]  # theirs
        content |= {"inference_mode": True, "task_type": "CAUSAL_LM"}
        content["target_modules"] = sorted(self.settings.target_modules)
        return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    def _parameters(self, adapter: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Factors of an adapter with their names in files."""
        for name, layer in self._layers.items():
            for factor in _FACTORS:
                linear: Any = getattr(layer, factor)[adapter]
                yield _name(name, factor), linear.weight

    def _config(self, layers: int) -> LoraConfig:
        adapted = min(self._trainable_layers or layers, layers)
        return LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,  # type: ignore[arg-type]  # only divided by the rank
            lora_dropout=0.0,  # with dropout, log-probabilities would be those of no policy
            target_modules=list(self.settings.target_modules),
            bias="none",
            layers_to_transform=list(range(layers - adapted, layers)) if adapted < layers else None,
            layers_pattern="layers" if adapted < layers else None,
        )

    def _activate(self, adapter: str) -> None:
        for layer in self._layers.values():
            layer.set_adapter(adapter, inference_mode=adapter != TRAINED)


def _name(module: str, factor: str) -> str:
    """Name of a factor in an adapter's file."""
    return f"{_PREFIX}{module}.{factor}.weight"


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise Corrupt(f"the reference {path} cannot be read: {error}") from error
