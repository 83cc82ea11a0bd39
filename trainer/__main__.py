"""`python -m trainer CONFIG`: the command line.

Everything that can be wrong before the training is looked at here, without loading torch; then
`loop.py` begins. A run folder that holds a checkpoint of the same configuration is resumed. Several
ranks, on one machine or many (docs/trainer-launch.md):

    torchrun --nproc-per-node 2 -m trainer CONFIG
    deepspeed --num_gpus 2 --module trainer CONFIG

Exit code 0 means finished; `failures.py` lists the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from synthagent.errors import InvalidInput, PreconditionFailed
from synthagent.models import resolve_model
from trainer import config as configuration
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import TrainerConfig, reference
from trainer.failures import told
from trainer.launch import Placement
from trainer.run_folder import RunFolder


def main(
    config: Annotated[
        Path | None, typer.Argument(help="Configuration file (TOML or YAML).")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    *,
    resume: Annotated[
        bool, typer.Option("--resume", help="Fail where there is no checkpoint to resume.")
    ] = False,
    amend: Annotated[
        bool, typer.Option("--amend", help="Go on although, say, the learning rate was another.")
    ] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print every key of the configuration, and end.")
    ] = False,
    local_rank: Annotated[
        int, typer.Option("--local_rank", "--local-rank", hidden=True, help="From deepspeed.")
    ] = 0,
) -> None:
    """Trains a policy on episodes that stream from the rollout service."""
    if describe:
        typer.echo(reference.page(), nl=False)
        return
    with told():
        if config is None:
            raise InvalidInput("name a configuration file, such as trainer/configs/demo.toml")
        settings = configuration.load(config, override or ())
        placement = Placement.from_environment()
        resolve_model(settings.model.name)
        folder = RunFolder(settings)
        folder.require_same_run(amend=amend)
        checkpoints = Checkpoints(folder.checkpoints, keep=settings.checkpoint.keep)
        place = _place(settings, checkpoints, placement, must_resume=resume)
        try:
            from trainer import loop  # noqa: PLC0415 - torch, only now that all is right
        except ModuleNotFoundError as error:
            raise PreconditionFailed(
                f"{error.name} is not installed; run pip install 'synthagent[trainer]'"
            ) from error
    with told(at_once=placement.world_size > 1):
        start = loop.Start(settings, placement, folder, checkpoints, place)
        loop.train(start, Console())


def _place(
    settings: TrainerConfig, checkpoints: Checkpoints, placement: Placement, *, must_resume: bool
) -> Progress:
    """Where the run begins: at its latest checkpoint, verified by rank 0, or at the start."""
    if checkpoints.exists:
        return checkpoints.read(world_size=placement.world_size, verify=placement.rank == 0)
    if must_resume:
        raise InvalidInput(
            f"--resume: {settings.run.folder}/checkpoints holds no checkpoint", field="resume"
        )
    return Progress(policy_version=settings.rollout.first_policy_version)


if __name__ == "__main__":
    typer.run(main)
