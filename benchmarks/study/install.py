"""Puts a bundle together on a bare GPU machine: `python benchmarks/study/install.py PARTS`.

Runs where nothing of this project is installed yet, so it uses the standard library alone. Makes,
in the current folder, `.venv-study` over the machine's own torch and `.venv-bfcl`, and converts the
default model. Then: `.venv-study/bin/python -m benchmarks.study run --size gpu --slice-minutes 10`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

PART_NAME = "study-{}.part"
DIGESTS = "parts.json"


class BundleDamaged(Exception):
    """The parts are not those that were made, or for another Python."""


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def join(parts: Path, archive: Path) -> None:
    """Puts the parts together. Raises BundleDamaged where one is missing or another than made."""
    digests = parts / DIGESTS
    if not digests.exists():
        raise BundleDamaged(f"{digests} is missing; copy all that `bundle` left")
    expected = json.loads(digests.read_text(encoding="utf-8"))
    with archive.open("wb") as target:
        for name in sorted(expected):
            part = parts / name
            if not part.exists() or digest(part) != expected[name]:
                raise BundleDamaged(f"{part} is missing or damaged; copy it again")
            target.write(part.read_bytes())


def install(parts: Path, *, models: bool = True) -> None:
    """Makes both environments. Raises BundleDamaged, CalledProcessError."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        join(parts, folder / "bundle.tar")
        with tarfile.open(folder / "bundle.tar") as tar:
            tar.extractall(folder, filter="data")
        wanted = (folder / "python.txt").read_text().strip()
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        if wanted != running:
            raise BundleDamaged(f"the bundle is for Python {wanted}, and this is {running}")
        study = _environment(Path(".venv-study"), folder / "wheels", system=True)
        _environment(Path(".venv-bfcl"), folder / "bfcl-wheels", system=False)
    if models:
        subprocess.run([study, "-m", "services.rollout.policy.convert"], check=True)  # noqa: S603


def _environment(place: Path, wheels: Path, *, system: bool) -> str:
    """A virtual environment with all the wheels; returns its Python."""
    venv.create(place, system_site_packages=system, with_pip=True)
    python = str((place / "bin" / "python").absolute())
    files = sorted(str(path) for path in wheels.glob("*.whl"))
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--no-index",
        "--no-deps",
        *files,
    ]
    subprocess.run(command, check=True)  # noqa: S603 - our own arguments
    return python


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", type=Path, help="the folder that `bundle` left")
    arguments = parser.parse_args()
    try:
        install(arguments.parts)
    except BundleDamaged as error:
        sys.exit(f"install: {error}")


if __name__ == "__main__":
    main()
