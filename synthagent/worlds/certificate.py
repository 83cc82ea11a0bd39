"""The check of a certificate, which everything that runs a task asks for first.

It stands apart from the gates, so that what runs tasks does not load what certifies them.
"""

from __future__ import annotations

from synthagent.worlds.content import task_digest
from synthagent.worlds.engine import ENGINE_VERSION
from synthagent.worlds.spec import Task


class NotCertifiedError(ValueError):
    """A task that must not be run: its certificate is missing, failed, outdated or of another."""


def verify(task: Task) -> None:
    """Makes sure that a task carries a passing certificate of its own. Raises NotCertifiedError."""
    certificate = task.certificate
    if certificate is None:
        raise NotCertifiedError(f"task {task.task_id} has no certificate; import it first")
    if not certificate.passed:
        raise NotCertifiedError(f"task {task.task_id} has a certificate that did not pass")
    if certificate.engine_version != ENGINE_VERSION:
        raise NotCertifiedError(
            f"task {task.task_id} was certified by engine {certificate.engine_version}, and this "
            f"is engine {ENGINE_VERSION}; import it again"
        )
    if certificate.task_digest != task_digest(task):
        raise NotCertifiedError(
            f"task {task.task_id} was changed after it was certified; import it again"
        )
