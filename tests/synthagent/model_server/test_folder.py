from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from synthagent.errors import Corrupt, NotFound
from synthagent.model_server.folder import lay_out, read_header

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def model(folder: Path, *, tied: bool) -> Path:
    folder.mkdir()
    tensors = {EMBEDDING: np.arange(12, dtype=np.float32).reshape(4, 3)}
    if not tied:
        tensors[HEAD] = np.ones((4, 3), np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied, "layers": 1}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("hello")
    return folder


def test_a_tied_head_gets_weights_of_its_own(tmp_path: Path) -> None:
    source = model(tmp_path / "m", tied=True)
    folder = lay_out(source, cache=tmp_path)
    assert json.loads((folder / "config.json").read_text()) == {
        "tie_word_embeddings": False,
        "layers": 1,
    }
    head = load_file(folder / "lm_head.safetensors")[HEAD]
    embedding = load_file(folder / "model.safetensors")[EMBEDDING]
    assert (head == embedding).all()
    assert (folder / "chat_template.jinja").read_text() == "hello"
    assert (folder / "model.safetensors").resolve() == source / "model.safetensors"


def test_a_head_of_its_own_stays(tmp_path: Path) -> None:
    folder = lay_out(model(tmp_path / "m", tied=False), cache=tmp_path)
    assert not (folder / "lm_head.safetensors").exists()


def test_published_weights_have_a_folder_of_their_own(tmp_path: Path) -> None:
    source = model(tmp_path / "m", tied=True)
    path = tmp_path / "v1.safetensors"
    save_file({EMBEDDING: np.zeros((4, 3), np.float32)}, path)
    base, published = lay_out(source, cache=tmp_path), lay_out(source, path, tmp_path)
    assert base != published
    assert not load_file(published / "lm_head.safetensors")[HEAD].any()
    save_file({EMBEDDING: np.ones((4, 3), np.float32)}, path)  # the same name anew
    again = lay_out(source, path, tmp_path)
    assert load_file(again / "lm_head.safetensors")[HEAD].all()


def test_at_the_same_time_it_is_made_once(tmp_path: Path) -> None:
    source = model(tmp_path / "m", tied=True)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: lay_out(source, cache=tmp_path), range(16)))
    assert len(set(folders)) == 1
    assert [entry.name for entry in (tmp_path / "served").iterdir()] == [folders[0].name]


def test_what_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    source = model(tmp_path / "m", tied=True)
    with pytest.raises(NotFound, match="cannot be read"):
        lay_out(source, tmp_path / "nothing", tmp_path)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a tensor in sight")
    with pytest.raises(Corrupt, match="no header"):
        lay_out(source, bad, tmp_path)
    bad.write_bytes((9).to_bytes(8, "little") + b"{not json" + b" " * 9)
    with pytest.raises(Corrupt, match="is damaged"):
        read_header(bad)
    with pytest.raises(NotFound, match="no weights file"):
        read_header(tmp_path / "nothing")
    save_file({"other": np.zeros(1, np.float32)}, bad)
    with pytest.raises(Corrupt, match=f"no {EMBEDDING}"):
        lay_out(source, bad, tmp_path)
    assert not any(tmp_path.glob("served/.new-*"))
