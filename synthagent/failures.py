"""Turns a gRPC status back into the exception it was made from.

The reason in the status's ErrorInfo names the exception; a status without one (of the transport or
of another server) becomes the nearest exception by its code.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from synthagent import errors

DETAILS = "grpc-status-details-bin"


def _tree(kind: type[errors.SynthAgentError]) -> list[type[errors.SynthAgentError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _tree(child))]


# Of those that share a reason, such as one process's own kind of a fault, the first of the tree.
_BY_REASON = {kind.reason: kind for kind in reversed(_tree(errors.SynthAgentError))}
_BY_CODE: dict[grpc.StatusCode, type[errors.SynthAgentError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.BackendUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.BackendUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceeded,
    grpc.StatusCode.UNIMPLEMENTED: errors.PreconditionFailed,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
}
_BY_NUMBER: dict[int, type[errors.SynthAgentError]] = {
    code.value[0]: kind for code, kind in _BY_CODE.items()
}


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.SynthAgentError:
    """The exception that a call's status stands for, with its field, delay and metadata."""
    message = error.details() or error.code().name
    trailers: Any = error.trailing_metadata() or ()  # pairs, whatever its stub says
    for key, value in trailers:
        if key == DETAILS and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    if error.code() is grpc.StatusCode.CANCELLED:
        # Not by us: that ends the waiting task. gRPC's core ends calls so that wait for a server
        # which has more of them than it will ever take.
        return errors.BackendUnavailable("The server has too many calls waiting; call again.")
    kind = _BY_CODE.get(error.code(), errors.SynthAgentError)
    return kind(f"{error.code().name}: {message}")


def from_status(status: status_pb2.Status) -> errors.SynthAgentError:
    """The exception that a google.rpc.Status stands for; see `from_rpc_error`."""
    kind = _BY_NUMBER.get(status.code, errors.SynthAgentError)
    field = ""
    retry_after: timedelta | None = None
    metadata: dict[str, str] = {}
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == errors.DOMAIN:
            kind = _BY_REASON.get(info.reason, kind)
            metadata = dict(info.metadata)
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
    return kind(status.message, field=field, retry_after=retry_after, **metadata)
