"""State versions of worlds with simulated tools, whose state is nowhere but in their history.

What a simulated tool changes is in no table, so the calls that changed something stand for it: an
episode starts at the world's root version, and a call that changes the state leads to a version
derived from the one before, the tool and the arguments. Episodes with the same changes share a
version, and none reaches that of another. Worlds without simulated tools have no versions, and
their state hash is the engine's alone.

The root is derived from the world and not from the task's identifier, so that a task and its draft,
which share a world, agree about every state.
"""

from __future__ import annotations

import hashlib

import orjson

from synthagent.worlds.spec import SimulatedBehaviour, World
from synthagent.worlds.values import canonical_json, exact_json


def root_version(world: World) -> str:
    """The version before the first call, 32 hexadecimal digits; "" without simulated tools."""
    if not any(isinstance(tool.behaviour, SimulatedBehaviour) for tool in world.tools):
        return ""
    return _digest(canonical_json(world.model_dump(mode="json")))


def next_version(version: str, tool: str, arguments: str) -> str:
    """The version after a call that changed the state; `arguments` as `canonical` gives them."""
    return _digest(orjson.dumps([version, tool, arguments]))


def session_hash(engine_hash: str, version: str) -> str:
    """The state hash of tables and version together, 32 hexadecimal digits."""
    return _digest(f"{engine_hash}{version}".encode()) if version else engine_hash


def canonical(arguments: str) -> str:
    """Arguments that are a JSON object, in canonical JSON. Raises ValueError for other text.

    Numbers that differ stay different: integers of any length keep all their digits. Fractions are
    64-bit floats, as JSON is read everywhere.
    """
    return canonical_json(_canonical_numbers(exact_json(arguments))).decode()


def _canonical_numbers(value: object) -> object:
    """JSON Schema holds 5 and 5.0 for the same integer, so they are spelled the same here."""
    if isinstance(value, dict):
        return {key: _canonical_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
