"""The door to `bfcl-eval`: its items, its tools and its checker, in an environment of its own.

Runs as a process under the Python of that environment (`make bfcl`) and imports nothing of ours:
`bfcl-eval` pins versions that this project cannot share. Reads one JSON request a line on standard
input and answers each with one line, until the input ends. What the package prints goes to
standard error.

    {"do": "items", "categories": [...]}               -> version, max_steps, items by category
    {"do": "execute", "episode", "item", "calls"}      -> results, one text a call
    {"do": "score", "category", "results", "folder"}   -> wrong: error type by item

Invariants: every verdict is that of `evaluate_task` in `bfcl_eval.eval_checker.eval_runner`, the
function behind `bfcl evaluate`. The package evaluates calls of multi-turn items as Python, so only
calls of its own tools with plain argument names reach it; any other fails as an unknown function.
"""

from __future__ import annotations

import importlib.metadata
import json
import keyword
import os
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The package makes folders beside itself when it is imported, unless it is told where.
os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp(prefix="bfcl-"))

NAME = "policy"
"""Under which the package keeps the answers' files and the states of its tools."""

_UNKNOWN = "unknown_function()"


@dataclass(frozen=True)
class _Registered:
    """What the checker asks of a registered model; ours keeps the dots in names of functions."""

    model_name: str = NAME
    underscore_to_dot: bool = False


# The package's registry imports the client library of every hosted model. Ours is the only model
# here, so a registry of one takes its place; nothing of the checker is touched.
_REGISTRY = types.ModuleType("bfcl_eval.constants.model_config")
_REGISTRY.MODEL_CONFIG_MAPPING = {NAME: _Registered()}  # type: ignore[attr-defined]  # made here
sys.modules[_REGISTRY.__name__] = _REGISTRY

from bfcl_eval.constants.default_prompts import MAXIMUM_STEP_LIMIT  # noqa: E402 - after the registry
from bfcl_eval.constants.eval_config import MULTI_TURN_FUNC_DOC_PATH  # noqa: E402 - as above
from bfcl_eval.eval_checker.eval_runner import evaluate_task  # noqa: E402 - as above
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import (  # noqa: E402 - as above
    execute_multi_turn_func_call,
)
from bfcl_eval.utils import (  # noqa: E402 - as above
    extract_test_category_from_id,
    find_file_by_category,
    load_dataset_entry,
)

Calls = list[dict[str, str]]
"""Calls as function-calling handlers give them: `{name: arguments as JSON}` each."""


class Handler:
    """A function-calling handler: answers hold calls, or text where nothing was called."""

    def decode_ast(
        self, result: Any, _language: object = None, _tag: object = None, **_: Any
    ) -> Any:
        """`[{name: {argument: value}}]`. Raises where the answer holds no calls."""
        return [{name: _arguments(text)} for call in _calls(result) for name, text in call.items()]

    def decode_execute(self, result: Any, **_: Any) -> list[str]:
        """Calls as Python. Raises where the answer holds none."""
        return [_as_python(call) for call in _calls(result)]


def _calls(result: Any) -> Calls:
    if not isinstance(result, list):
        raise ValueError("the answer holds no calls")  # noqa: TRY004 - what a decoder raises
    return result


def _arguments(text: str) -> dict[str, Any]:
    arguments = json.loads(text)
    if not isinstance(arguments, dict):
        raise ValueError("the arguments are no object")  # noqa: TRY004 - what a decoder raises
    return arguments


def _as_python(call: dict[str, str]) -> str:
    """The call as Python that is safe to evaluate: a tool's name, and literals by plain names."""
    ((name, text),) = call.items()
    arguments = _arguments(text)
    if name not in _tools() or not all(map(_plain, arguments)):
        return _UNKNOWN
    return f"{name}({','.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _plain(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


_TOOLS: set[str] = set()


def _tools() -> set[str]:
    if not _TOOLS:
        for path in Path(MULTI_TURN_FUNC_DOC_PATH).glob("*.json"):
            lines = path.read_text(encoding="utf-8").splitlines()
            _TOOLS.update(json.loads(line)["name"] for line in lines if line.strip())
    return _TOOLS


_ENTRIES: dict[str, dict[str, Any]] = {}


def _items(request: dict[str, Any]) -> dict[str, Any]:
    items: dict[str, list[dict[str, Any]]] = {}
    for category in request["categories"]:
        entries = load_dataset_entry(category)
        _ENTRIES.update({entry["id"]: entry for entry in entries})
        items[category] = [
            {"id": each["id"], "question": each["question"], "function": each["function"]}
            for each in entries
        ]
    version = importlib.metadata.version("bfcl-eval")
    return {"version": version, "max_steps": MAXIMUM_STEP_LIMIT, "items": items}


def _execute(request: dict[str, Any]) -> dict[str, Any]:
    if request["item"] not in _ENTRIES:
        _items({"categories": [extract_test_category_from_id(request["item"])]})
    entry = _ENTRIES[request["item"]]
    results, _ = execute_multi_turn_func_call(
        [_as_python(call) for call in request["calls"]],
        entry["initial_config"],
        entry["involved_classes"],
        request["episode"],  # the package keeps a state for each name
        entry["id"],
    )
    return {"results": results}


def _score(request: dict[str, Any]) -> dict[str, Any]:
    folder, category = Path(request["folder"]), request["category"]
    answers = sorted(request["results"], key=lambda each: int(each["id"].rsplit("_", 1)[1]))
    evaluate_task(category, folder, folder, answers, NAME, Handler(), {}, allow_missing=True)
    scored = find_file_by_category(category, folder, is_score_file=True)
    lines = map(json.loads, scored.read_text(encoding="utf-8").splitlines())
    header, *wrong = lines
    if header["total_count"] != len(answers) or header["correct_count"] + len(wrong) != len(
        answers
    ):
        raise ValueError(f"the score file of {category} does not add up: {header}")
    return {"wrong": {each["id"]: _error_type(each) for each in wrong}}


def _error_type(row: dict[str, Any]) -> str:
    error = row.get("error")
    nested = error.get("error_type") if isinstance(error, dict) else None
    return str(row.get("error_type") or nested or "unknown")


ACTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "items": _items,
    "execute": _execute,
    "score": _score,
}


def main() -> None:
    """Answers requests until the input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = ACTIONS[request["do"]](request)
        except Exception as error:  # noqa: BLE001 - whatever the package raises is told to the caller
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
