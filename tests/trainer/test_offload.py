"""Optimizer and parameters in host memory train as those on the device do. `make test-launchers`.

On a machine without a GPU both lie in the same memory: what is tested is DeepSpeed's path with its
own Adam, which a C++ compiler builds at first use; that memory of a GPU is saved is not.
"""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from safetensors.torch import load_file

from tests.trainer import offload_worker
from tests.trainer.processes import work_on_ranks
from tests.trainer.tiny import write_model

pytestmark = pytest.mark.launchers


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker left."""
    out = tmp_path_factory.mktemp("offload")
    work_on_ranks(offload_worker.main, (write_model(out / "model"), out), 1)
    return out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", offload_worker.STAGES)
def test_an_optimizer_in_host_memory_trains_alike(outputs: Path, stage: int) -> None:
    plain, offloaded = (
        orjson.loads((outputs / f"{stage}-{name}.json").read_bytes())
        for name in ("plain", "offloaded")
    )
    for one, other in zip(plain, offloaded, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    weights = load_file(outputs / f"{stage}-plain.safetensors")
    for name, found in load_file(outputs / f"{stage}-offloaded.safetensors").items():
        assert (found - weights[name]).abs().max() < 1e-5, name
