"""What stands in front of a server's methods: who calls, whether they may, and how much.

A `Gate` lives as long as its server. Every call is a `Visit`: `admit` lets it in or raises, `check`
looks at each message, `end` gives back what the call used and writes the audit line. Without
security settings everybody is the caller "anonymous" and may call everything.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import structlog

from synthagent.errors import LimitExceeded, PermissionDenied, Unauthenticated
from synthagent.metrics import ServerMetrics
from synthagent.security.access import KNOWN_CALLERS_ONLY, OPEN, method_of
from synthagent.security.audit import AuditLog, Outcome
from synthagent.security.callers import Caller, CallerLimits, Callers
from synthagent.security.limits import Limits
from synthagent.security.settings import SecuritySettings

ANONYMOUS = "anonymous"

_log = structlog.get_logger()


class Gate:
    """The gate of one server."""

    def __init__(
        self,
        callers: Callers | None,
        limits: CallerLimits,
        audit: AuditLog | None,
        metrics: ServerMetrics,
    ) -> None:
        """Without `callers` everybody is let in, as one caller with these limits."""
        self.callers = callers
        self.audit = audit
        self.metrics = metrics
        self.limits = Limits()
        self.anonymous = Caller(ANONYMOUS, None, limits)

    @classmethod
    def of(cls, settings: SecuritySettings, metrics: ServerMetrics) -> Self:
        """The gate that the settings ask for. Raises UnusableFile."""
        limits = CallerLimits.of(settings)
        callers = Callers(settings.callers_file, limits) if settings.callers_file else None
        audit = (
            AuditLog(settings.audit_file, metrics.audit_lines_lost)
            if callers or settings.audit_file
            else None
        )
        return cls(callers, limits, audit, metrics)

    def guards(self, path: str) -> bool:
        """Whether calls of this path go through here: health never, reflection with `callers`."""
        if path.startswith(KNOWN_CALLERS_ONLY):
            return self.callers is not None
        return not path.startswith(OPEN)

    def arrive(self, path: str, context: Any, request: Any, *, unary: bool) -> Visit:
        """A call that begins; `request` is None where messages come as a stream."""
        return Visit(self, path, context, request, unary=unary)

    def warn_if_open(self, host: str, *, encrypted: bool) -> None:
        """Tells the operator where everybody who reaches the server may call everything.

        And where whoever reads its traffic may, by the tokens in it: without TLS.
        """
        if _is_loopback(host):
            return
        if self.callers is not None and not encrypted:
            _log.warning(
                "callers' tokens travel in plain text: set SYNTHAGENT_TLS_CERTIFICATE_FILE and "
                "what goes with it",
                host=host,
            )
        if self.callers is None:
            _log.warning(
                "open to everybody who reaches this address: set SYNTHAGENT_CALLERS_FILE, or let "
                "only our own services reach it",
                host=host,
            )

    def close(self) -> None:
        """Closes the audit log."""
        if self.audit is not None:
            self.audit.close()


class Visit:
    """One call, from its arrival to its end."""

    __slots__ = ("_began", "_context", "_gate", "_leave", "_path", "_request", "_unary", "caller")

    def __init__(self, gate: Gate, path: str, context: Any, request: Any, *, unary: bool) -> None:
        self._gate = gate
        self._path = path
        self._context = context
        self._request = request
        self._unary = unary
        self._began = time.time()
        self._leave: Callable[[], None] | None = None
        self.caller: Caller | None = None
        """Who calls; None before `admit` and where nobody knows."""

    def admit(self) -> None:
        """Lets the call in. Raises Unauthenticated, PermissionDenied, LimitExceeded."""
        gate = self._gate
        try:
            self.caller = self._identified()
            self._leave = gate.limits.enter(self.caller, self._path, unary=self._unary)
            if self._request is not None:
                gate.limits.check(self.caller, self._path, self._request)
        except (Unauthenticated, PermissionDenied, LimitExceeded) as error:
            self._count(error)
            raise

    def _identified(self) -> Caller:
        callers = self._gate.callers
        if callers is None:
            return self._gate.anonymous
        caller = self.caller = callers.identify(
            self._context.invocation_metadata() or (), self._context.auth_context()
        )
        roles = method_of(self._path).roles
        if caller.role not in roles:
            method = self._path.rpartition(".")[2]
            raise PermissionDenied(
                f"Caller {caller.name!r} is {caller.role}, and {method} is for "
                f"{', '.join(sorted(roles)) or 'nobody'}.",
                caller=caller.name,
                role=str(caller.role),
            )
        return caller

    def messages(self, requests: Any, context: Any) -> tuple[Any, Any]:
        """A stream of requests and its context, both with every message checked."""
        caller = self.caller
        if caller is None or caller.limits == CallerLimits():
            return requests, context
        return self._each(requests), _Reading(context, self._check)

    async def _each(self, requests: Any) -> AsyncIterator[Any]:
        async for request in requests:
            self._check(request)
            yield request

    def _check(self, request: Any) -> None:
        if self.caller is not None and hasattr(request, "ByteSize"):  # not the end of the stream
            try:
                self._gate.limits.check(self.caller, self._path, request)
            except LimitExceeded as error:
                self._count(error)
                raise

    def _count(self, error: Unauthenticated | PermissionDenied | LimitExceeded) -> None:
        reason = error.metadata.get("limit", error.reason.lower())
        service, _, method = self._path.lstrip("/").partition("/")
        self._gate.metrics.refusals.labels(service, method, reason).inc()

    def end(self, code: str, reason: str) -> None:
        """The call has ended with this status, and with the reason of an error."""
        if self._leave is not None:
            self._leave()
            self._leave = None
        audit = self._gate.audit
        if audit is not None and method_of(self._path).audited:
            how = Outcome(self._began, code, reason, time.time() - self._began)
            audit.write(self.caller, self._context.peer(), self._path, self._request, how)


class _Reading:
    """A call's context whose `read` checks what was read."""

    def __init__(self, context: Any, check: Callable[[Any], None]) -> None:
        self._context = context
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next message, or the mark of the end."""
        message = await self._context.read()
        self._check(message)
        return message


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
