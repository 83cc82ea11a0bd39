"""What an export refuses. That it gives what the run gives is checked in test_engine.py."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from synthagent.errors import Corrupt, InvalidInput, NotFound
from tests.trainer.tiny import write_model
from trainer import config as configuration
from trainer.config import ModelSettings, RunSettings, TrainerConfig
from trainer.export import export, main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose checkpoint holds one file, and no shard."""
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "rl-000001"
    checkpoint.mkdir(parents=True)
    model = write_model(tmp_path / "model")
    settings = RunSettings(folder=folder)
    config = TrainerConfig(run=settings, model=ModelSettings(name=str(model)))
    configuration.write(config, folder / "config.toml")
    (checkpoint / "shard").write_bytes(b"1")
    seal = {
        "bytes": 1,
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    }
    manifest = {"progress": {"stage": "rl"}, "world_size": 3, "files": {"shard": seal}}
    (checkpoint / "manifest.json").write_bytes(orjson.dumps(manifest))
    (folder / "checkpoints" / "latest").write_text("rl-000001")
    return folder


def test_what_is_missing_or_damaged_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotFound, match=r"is no run folder: it holds no config\.toml"):
        export(tmp_path, out)
    with pytest.raises(InvalidInput, match="is there already"):
        export(run, run)
    with pytest.raises(Corrupt, match="cannot be put together"):
        export(run, out)
    (run / "checkpoints" / "rl-000001" / "shard").write_bytes(b"2")
    with pytest.raises(SystemExit) as ended:
        main(run, out)
    assert ended.value.code == 4
    assert "shard" in capsys.readouterr().err
    (run / "checkpoints" / "latest").unlink()
    with pytest.raises(NotFound, match="holds no checkpoint"):
        export(run, out)
    assert not out.exists()
