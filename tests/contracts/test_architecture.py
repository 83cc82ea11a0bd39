"""The rules between layers, checked by import-linter, and the names of folders and files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "misc"}
SOURCES = ("synthagent", "services", "trainer", "tests")


def test_layers_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_no_folder_or_file_is_a_drawer() -> None:
    drawers = [
        path.relative_to(ROOT).as_posix()
        for source in SOURCES
        for path in (ROOT / source).rglob("*")
        if path.stem in FORBIDDEN
    ]
    assert drawers == []


def test_a_client_needs_no_server_library() -> None:
    program = (
        "import sys, synthagent.client\n"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'sqlmodel', 'alembic',\n"
        "         'prometheus_client', 'structlog'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
