"""`python -m trainer.export RUN_FOLDER OUT`: a checkpoint as a plain model folder, no training.

Reads the latest checkpoint of a run folder, of any ZeRO stage and number of ranks, puts the shards
together on the CPU in one process, and writes what the run itself writes at its end: a folder that
transformers and vLLM load, with adapters added to the model and beside it. Takes the memory of two
copies of the model in float32. The run folder is only read. Exit codes are those of `trainer`.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # shards are read, nothing is computed

import torch
import typer
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor
from transformers import AutoConfig

from synthagent.errors import Corrupt, InvalidInput, NotFound
from synthagent.models import resolve_model
from trainer import config as configuration
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import TrainerConfig
from trainer.failures import told
from trainer.lora import Adapters
from trainer.weights import write_model_folder

_MODULE = "model."
"""Name of the language model within the module that trains (`PolicyScorer.model`)."""

_MODULE_STATE = "mp_rank_00_model_states.pt"
"""DeepSpeed's name of the file that every rank holds alike below stage 3."""


def export(run_folder: Path, target: Path) -> Progress:
    """Writes the model of a run folder's latest checkpoint to `target`; returns its place.

    Raises InvalidInput (`target` is there), NotFound (no run, no checkpoint, no model), Corrupt (a
    file differs from what was written, or does not fit the model), OSError.
    """
    if target.exists():
        raise InvalidInput(f"{target} is there already; name another folder, or move it away")
    config = _read_config(run_folder)
    checkpoints = Checkpoints(run_folder / "checkpoints", keep=config.checkpoint.keep)
    if not checkpoints.exists:
        raise NotFound(
            f"{run_folder} holds no checkpoint; set checkpoint.enabled, or take the folder model/ "
            "of a run that has ended"
        )
    place = checkpoints.read(world_size=None)
    source = resolve_model(config.model.name)
    state = _consolidate(checkpoints.latest, config)
    model = AutoConfig.from_pretrained(source, local_files_only=True)
    if model.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if not config.lora.enabled:
        write_model_folder(state, source, target, adapter={}, adapter_config=b"")
        return place
    adapters = Adapters(config.lora, config.model.trainable_layers)
    base, adapter = adapters.split(state)
    adapters.merge(base, adapter)
    written = adapters.config(int(model.num_hidden_layers))
    write_model_folder(base, source, target, adapter=adapter, adapter_config=written)
    return place


def _read_config(run_folder: Path) -> TrainerConfig:
    path = run_folder / "config.toml"
    if not path.is_file():
        raise NotFound(f"{run_folder} is no run folder: it holds no config.toml")
    return configuration.load(path)


def _consolidate(checkpoint: Path, config: TrainerConfig) -> dict[str, Tensor]:
    """Whole parameters of a checkpoint, by their names in files, in the precision of the run."""
    dtype = torch.bfloat16 if config.deepspeed.precision == "bfloat16" else torch.float32
    try:
        with redirect_stdout(sys.stderr):  # DeepSpeed tells what it reads
            state = get_fp32_state_dict_from_zero_checkpoint(
                str(checkpoint.parent), tag=checkpoint.name
            )
        if config.deepspeed.stage < 3:
            # DeepSpeed tells nothing of parameters that do not train; the module's state has them.
            held = torch.load(checkpoint / _MODULE_STATE, mmap=True, weights_only=False)
            state = held["module"] | state
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise Corrupt(f"the shards in {checkpoint} cannot be put together: {error}") from error
    return {
        name.removeprefix(_MODULE): value.detach().to(dtype).contiguous().clone()
        for name, value in state.items()
    }


def main(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, with its checkpoints.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Make a Hugging Face model folder of a run's latest checkpoint."""
    with told():
        place = export(run_folder, out)
    typer.echo(f"{out}: the policy after {place.stage} step {place.step}")


if __name__ == "__main__":
    typer.run(main)
