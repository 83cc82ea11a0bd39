"""Which published versions are kept beside the one that was just written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.processes import work_on_ranks
from tests.trainer.tiny import write_model

WRITTEN = (5, 6, 7, 4, 5)  # the run was cut behind version 7 and goes on from 4


@pytest.mark.timeout(300)
def test_a_resumed_run_keeps_what_it_writes_beside_later_versions(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    work_on_ranks(write_versions, (model, tmp_path / "weights"), 1)
    assert sorted(file.name for file in (tmp_path / "weights").iterdir()) == [
        f"policy-v{version:06d}.safetensors" for version in (4, 5, 6, 7)
    ]


def write_versions(model: Path, weights: Path) -> None:
    """In a process of its own."""
    from trainer.config import DeepSpeedSettings, ModelSettings  # noqa: PLC0415 - see above
    from trainer.engine import TrainingEngine  # noqa: PLC0415 - see above
    from trainer.ranks import join_ranks  # noqa: PLC0415 - see above
    from trainer.weights import write_version  # noqa: PLC0415 - see above

    join_ranks(1)
    settings = DeepSpeedSettings.model_validate({"precision": "float32"})
    engine = TrainingEngine(model, ModelSettings(), settings)
    for version in WRITTEN:
        path, _ = write_version(engine, weights, version)
        assert path.is_file(), version
        assert version != 7 or len(list(weights.iterdir())) == 2
    engine.close()
