"""The folder of a run: which run it is, and how its parts are named.

`run.json` is written at the first start and never again: a token that makes the names of this run's
runs at the rollout service its own; beside it lies config.toml, with which the run began. A folder
that holds a run with another configuration is refused, so no run is ever overwritten; what may
change of a run is amended on demand, and config.toml keeps a numbered copy of what it was.
Imports no torch: what is wrong with a folder is said before that is loaded.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from synthagent.errors import Corrupt, InvalidInput
from trainer import config as configuration
from trainer.checkpoint import write_atomically
from trainer.config import TrainerConfig, changes
from trainer.failures import naming


class RunFolder:
    """Paths and names of one run."""

    def __init__(self, config: TrainerConfig) -> None:
        """The folder that `config` names, whatever is in it."""
        self.path = config.run.folder
        self._name = config.run.name
        self._config = config
        self._token = ""

    def require_same_run(self, *, amend: bool = False) -> None:
        """Looks, changes nothing. Raises InvalidInput where the folder holds another run, Corrupt.

        `amend` accepts changes that a run can go on with.
        """
        if not self._identity.exists():
            return
        self._token = self._read_token()
        differing = self._changes()
        if not differing:
            return
        fixed = [change for change in differing if not change.amendable]
        if not (fixed or amend):
            raise InvalidInput(
                f"{self.path} holds a run that began with another configuration: "
                f"{_listed(differing)}. Start with --amend to go on so, or choose another "
                "run.folder",
                field="run.folder",
            )
        if fixed:
            raise InvalidInput(
                f"{self.path} holds a run with another configuration: {_listed(fixed)}; "
                "choose another run.folder, or move it away",
                field="run.folder",
            )

    def open(self, *, first: bool, barrier: Callable[[], None]) -> None:
        """Makes the folder, or amends its configuration, on rank 0; all ranks wait for it."""
        if first:
            if not self._identity.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                with naming(self._config_file):
                    configuration.write(self._config, self._config_file)
                write_atomically(self._identity, orjson.dumps({"token": secrets.token_hex(4)}))
            elif self._changes():
                number = len(list(self.path.glob("config-*.toml"))) + 1
                shutil.copyfile(self._config_file, self.path / f"config-{number}.toml")
                configuration.write(self._config, self._config_file)
        barrier()
        self._token = self._read_token()

    def _changes(self) -> list[changes.Change]:
        return changes.changes(configuration.load(self._config_file), self._config)

    def _read_token(self) -> str:
        try:
            return str(orjson.loads(self._identity.read_bytes())["token"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise Corrupt(f"{self._identity} is damaged; choose another run.folder") from error

    @property
    def _identity(self) -> Path:
        return self.path / "run.json"

    @property
    def _config_file(self) -> Path:
        return self.path / "config.toml"

    def run_id(self, part: str) -> str:
        """Name of a part of this run at the rollout service."""
        return f"{self._name}-{self._token}-{part}"

    @property
    def metrics(self) -> Path:
        """One row of JSON per evaluation and step."""
        return self.path / "metrics.jsonl"

    @property
    def batches(self) -> Path:
        """Which trajectories each step of reinforcement trained on."""
        return self.path / "batches.jsonl"

    @property
    def weights(self) -> Path:
        """Published versions."""
        return self.path / "weights"

    @property
    def checkpoints(self) -> Path:
        """What a resumed run goes on from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model in the Hugging Face layout."""
        return self.path / "model"

    def highest_published(self) -> int:
        """Highest policy version that this run has published; -1 where none. Raises Corrupt."""
        path = self.path / "published.json"
        try:
            return int(orjson.loads(path.read_bytes())["policy_version"]) if path.exists() else -1
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} is damaged; it held the highest published version") from error

    def note_published(self, version: int) -> None:
        """Remembers a publication across crashes."""
        if version > self.highest_published():
            self._write_published(version)

    def note_refused(self, highest: int) -> None:
        """Forgets publications above `highest`, which the service refused."""
        self._write_published(highest)

    def _write_published(self, version: int) -> None:
        content = orjson.dumps({"policy_version": version})
        write_atomically(self.path / "published.json", content)


def _listed(differing: list[changes.Change]) -> str:
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return "; ".join(str(change) for change in differing[:3]) + more
