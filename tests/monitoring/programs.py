"""Prometheus and promtool: those on the path, or those that `make test-monitoring` unpacked."""

from __future__ import annotations

import shutil
from pathlib import Path

_UNPACKED = Path(__file__).parents[2] / "build" / "prometheus" / "usr" / "bin"


def program(name: str) -> str:
    """Path of a program of Prometheus. Raises FileNotFoundError."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    if found is None:
        raise FileNotFoundError(f"there is no {name}: run `make test-monitoring`, which fetches it")
    return found
