"""A task's content as canonical bytes, and the digest by which a certificate knows it."""

from __future__ import annotations

import hashlib

from synthagent.worlds.spec import Task
from synthagent.worlds.values import canonical_json


def canonical_content(task: Task, *, without: frozenset[str] = frozenset()) -> bytes:
    """The task's content without its certificate, and without the fields named, canonically.

    Parts that a task may lack count only where it has them, so that a new kind of part leaves the
    digests of all tasks without it as they were.
    """
    content = task.model_dump(mode="json", exclude={"certificate", *without})
    for name in ("background", "workflow", "origin"):
        if not content[name]:
            del content[name]
    for criterion in content["criteria"]:
        if not criterion["source_text"]:
            del criterion["source_text"]
    return canonical_json(content)


def task_digest(task: Task) -> str:
    """SHA-256 of the task's canonical content without its certificate, in hexadecimal."""
    return hashlib.sha256(canonical_content(task)).hexdigest()
