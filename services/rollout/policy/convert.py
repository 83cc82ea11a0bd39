"""Makes the folder of a packaged model: GGUF in, safetensors, config and tokenizer out.

Lifecycle: build in a temporary folder beside the target, verify, rename. Readers see a whole model
or none; runs at the same time wait for the first one and then find its work done. An existing
folder is verified and replaced only where it is damaged.

Two things that the GGUF loader of transformers leaves out are put right here: the digit-splitting
of SmolLM's pre-tokenizer, without which a number after two spaces gets other ids than in
training, and the storage name of the source, which would otherwise leak into the config.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError, safe_open

from services.rollout.policy.chat import ChatFormat
from synthagent.errors import Corrupt, SynthAgentError
from synthagent.models import DEFAULT_MODEL, missing_files, model_cache, packaged_gguf

# Encoded with the tokenizer that the model was trained with: specials are one id each, every digit
# stands alone, and two spaces before a digit are one token.
KNOWN_ENCODINGS: dict[str, tuple[str, ...]] = {
    "order 2024": ("order", "Ġ", "2", "0", "2", "4"),
    "x  7": ("x", "ĠĠ", "7"),
}
PRE_TOKENIZERS_WITH_SINGLE_DIGITS = {"smollm"}


def build_from_gguf(source: Path, folder: Path) -> None:
    """Makes `folder` from a GGUF file."""
    # Imported here because they take seconds and most runs find the model already converted.
    import torch  # noqa: PLC0415 - see above
    from transformers import (  # noqa: PLC0415 - see above
        AutoModelForCausalLM,
        AutoTokenizer,
        GgufConfig,
    )

    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if _pre_tokenizer_name(source) in PRE_TOKENIZERS_WITH_SINGLE_DIGITS:
        _split_digits(tokenizer)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("_model_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "model.safetensors").chmod(0o644)


def convert(
    name: str = DEFAULT_MODEL,
    out: Path | None = None,
    build: Callable[[Path, Path], None] = build_from_gguf,
) -> Path:
    """Makes sure that the model's folder exists and is whole; returns it.

    `out` overrides the folder in the model cache. Takes about 20 s and 1.5 GB of memory the first
    time. Raises PreconditionFailed (package missing), Corrupt (the result does not verify).
    """
    source = packaged_gguf(name)
    target = out or model_cache() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(target.parent / f".{target.name}.lock"):
        if _is_whole(target):
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            built = Path(scratch) / "model"
            build(source, built)
            verify(built)
            if target.exists():
                target.rename(Path(scratch) / "damaged")
            built.rename(target)
    return target


def verify(folder: Path) -> None:
    """Checks that a converted folder is whole. Raises Corrupt with what is wrong."""
    if missing := missing_files(folder):
        raise Corrupt(f"{folder} lacks {', '.join(missing)}")
    try:
        config = json.loads((folder / "config.json").read_text())
        with safe_open(folder / "model.safetensors", framework="numpy") as weights:
            tensors = len(list(weights.keys()))
        tokenizer = ChatFormat.load(folder).tokenizer
    except (ValueError, SafetensorError) as error:
        raise Corrupt(f"{folder} is damaged: {error}") from error
    expected = 2 + 9 * int(config["num_hidden_layers"])
    if tensors not in {expected, expected + 1}:
        raise Corrupt(f"{folder}/model.safetensors holds {tensors} tensors, not {expected}")
    for text, pieces in KNOWN_ENCODINGS.items():
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False).tokens)
        if tokens != pieces:
            raise Corrupt(f"{folder}/tokenizer.json encodes {text!r} as {tokens}, not {pieces}")


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except Corrupt:
        return False
    return True


def _pre_tokenizer_name(source: Path) -> str:
    import gguf  # noqa: PLC0415 - only needed when something is converted

    field = gguf.GGUFReader(source).get_field("tokenizer.ggml.pre")
    return "" if field is None else str(field.contents())


def _split_digits(tokenizer: Any) -> None:
    """Puts the digit splitter in front of the byte-level pre-tokenizer."""
    from tokenizers import pre_tokenizers  # noqa: PLC0415 - only needed when converting

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Holds an advisory lock on a file; the system frees it when the process ends, however."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(
    model: Annotated[str, typer.Option(help="Name of the packaged model.")] = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option(help="Folder to make. Default: in the model cache.")
    ] = None,
) -> None:
    """Convert a packaged model once into the model cache."""
    try:
        typer.echo(convert(model, out))
    except (SynthAgentError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
