"""Certification of model tasks in the workers: the gates, without novelty, as a pure function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.task_synthesis.workers import Workers
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Certificate, Task


def certificate_of(task: bytes) -> bytes:
    """The certificate, as JSON, of a task as JSON: up to the first gate that fails."""
    return certify(Task.model_validate_json(task)).model_dump_json().encode()


def in_workers(workers: Workers) -> Callable[[Task], Awaitable[Certificate]]:
    """A `Certify` that runs in worker processes. It raises BackendUnavailable where one died."""

    async def run(task: Task) -> Certificate:
        job = workers.submit(certificate_of, task.model_dump_json().encode())
        certificate = await workers.result(job)
        return Certificate.model_validate_json(certificate)

    return run
