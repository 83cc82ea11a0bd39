"""The folder of a run: which run it is, and how its parts are named.

`run.json` is written at the first start and never again: the configuration's digest, and a token
that makes the names of this run's runs at the rollout service its own. A folder that holds a run
with another configuration is refused, so no run is ever overwritten.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import orjson
from deepspeed import comm

from synthagent.errors import Corrupt, InvalidInput
from trainer import config as configuration
from trainer.checkpoint import write_atomically
from trainer.config import TrainerConfig
from trainer.engine import Ranks


class RunFolder:
    """Paths and names of one run."""

    def __init__(self, path: Path, name: str, token: str) -> None:
        self.path = path
        self._name = name
        self._token = token

    @classmethod
    def open(cls, config: TrainerConfig, ranks: Ranks) -> RunFolder:
        """Opens `config`'s folder on all ranks; rank 0 makes it. Raises InvalidInput, Corrupt."""
        folder = config.run.folder
        identity = folder / "run.json"
        if ranks.first and not identity.exists():
            folder.mkdir(parents=True, exist_ok=True)
            configuration.write(config, folder / "config.toml")
            content = {"token": secrets.token_hex(4), "config_digest": config.digest()}
            write_atomically(identity, orjson.dumps(content))
        comm.barrier()
        try:
            content = orjson.loads(identity.read_bytes())
            token, digest = content["token"], content["config_digest"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise Corrupt(f"{identity} is damaged; choose another run.folder") from error
        if digest != config.digest():
            raise InvalidInput(
                f"{folder} holds a run with another configuration (its config.toml); "
                "choose another run.folder, or move it away",
                field="run.folder",
            )
        return cls(folder, config.run.name, token)

    def run_id(self, part: str) -> str:
        """Name of a part of this run at the rollout service."""
        return f"{self._name}-{self._token}-{part}"

    @property
    def metrics(self) -> Path:
        """One row of JSON per evaluation and step."""
        return self.path / "metrics.jsonl"

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
        """Highest policy version that this run has published; -1 where none."""
        path = self.path / "published.json"
        return int(orjson.loads(path.read_bytes())["policy_version"]) if path.exists() else -1

    def note_published(self, version: int) -> None:
        """Remembers a publication across crashes."""
        if version > self.highest_published():
            content = orjson.dumps({"policy_version": version})
            write_atomically(self.path / "published.json", content)
