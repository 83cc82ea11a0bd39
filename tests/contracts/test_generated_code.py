"""The committed Python code of the contract is what the generator gives for it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
PROTOS = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    plugins = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    scripts = Path(sys.executable).parent  # where the plugins are installed
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *plugins, *PROTOS],
        cwd=ROOT,
        env={"PATH": f"{scripts}:/usr/bin:/bin"},
        check=True,
    )
    return out


def test_the_committed_code_is_what_the_contract_gives(generated: Path) -> None:
    def files(root: Path) -> dict[str, str]:
        found = (root / "synthagent/api/v1").glob("*_pb2*")
        return {path.name: path.read_text() for path in found}

    committed, fresh = files(ROOT), files(generated)
    assert len(PROTOS) == 6
    assert set(committed) == set(fresh)
    assert [name for name in fresh if committed[name] != fresh[name]] == []


def test_the_contract_is_lint_free() -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run(
        [buf, "lint", "proto"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
