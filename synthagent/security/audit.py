"""The audit log: one JSON line for every call that changes something, or tried to.

    {"time": "2026-01-01T12:00:00.123456+00:00", "caller": "trainer-a", "role": "trainer",
     "peer": "ipv4:10.0.0.7:41234", "method": "/synthagent.api.v1.Rollout/CreateRun",
     "request_id": "grpo-1", "code": "OK", "reason": "", "seconds": 0.012}

`time` is when the call began. Of a request only its idempotency key is written, cut to 128
characters, never what it holds. A file may be moved away by whatever rotates logs; it is opened
anew. A line that cannot be written is counted and logged, and the call goes on.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog
from prometheus_client import Counter

from synthagent.security.callers import Caller
from synthagent.security.watched import UnusableFile

_KEYS = ("request_id", "run_id", "policy_version")
_MOST_CHARACTERS = 128

_log = structlog.get_logger()


class Outcome(NamedTuple):
    """When a call began, in seconds of the Unix epoch, how it ended, and after how many seconds."""

    began: float
    code: str
    reason: str
    seconds: float


class AuditLog:
    """Lines in a file, or on standard error without one. Closed by `close`."""

    def __init__(self, path: Path | None, lost: Counter) -> None:
        """Opens the file to add to it; raises UnusableFile. `lost` counts unwritten lines."""
        self._lost = lost
        try:
            self._handler: logging.StreamHandler[Any] = (
                WatchedFileHandler(path, encoding="utf-8", errors="replace")
                if path is not None
                else logging.StreamHandler(sys.stderr)
            )
        except OSError as error:
            raise UnusableFile(
                f"SYNTHAGENT_AUDIT_FILE: {path} cannot be written: {error.strerror}."
            ) from error
        self._handler.handleError = self._on_error  # type: ignore[method-assign]  # its hook

    def write(
        self, caller: Caller | None, peer: str, path: str, request: Any, how: Outcome
    ) -> None:
        """Adds the line of a call that has ended."""
        line = {
            "time": datetime.fromtimestamp(how.began, UTC).isoformat(timespec="microseconds"),
            "caller": caller.name if caller else "",
            "role": (caller.role or "") if caller else "",
            "peer": peer,
            "method": path,
            "request_id": key_of(request),
            "code": how.code,
            "reason": how.reason,
            "seconds": round(how.seconds, 6),
        }
        record = logging.makeLogRecord({"msg": orjson.dumps(line).decode()})
        try:
            self._handler.handle(record)
        except OSError:  # a rotated file that cannot be opened anew
            self._on_error(record)

    def _on_error(self, record: logging.LogRecord) -> None:
        self._lost.inc()
        _log.error("audit line lost", line=record.getMessage(), exc_info=True)

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._handler.flush()
        if isinstance(self._handler, WatchedFileHandler):
            self._handler.close()


def key_of(request: Any) -> str:
    """The idempotency key of a request, cut; empty without one."""
    for name in _KEYS:
        value = getattr(request, name, "")
        if value:
            return str(value)[:_MOST_CHARACTERS]
    return ""
