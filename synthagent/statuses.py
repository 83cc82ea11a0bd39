"""Which status an exception becomes on the wire: the one table, and the details that go with it.

`synthagent.failures` turns a status back into its exception.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from synthagent import errors

STATUS: dict[type[errors.SynthAgentError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MissingDeadline: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.RequestIdReused: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Uncertified: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StepOutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StateDiverged: grpc.StatusCode.ABORTED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Corrupt: grpc.StatusCode.DATA_LOSS,
    errors.ModelFault: grpc.StatusCode.ABORTED,
    errors.ModelRefused: grpc.StatusCode.ABORTED,
    errors.ModelTruncated: grpc.StatusCode.ABORTED,
    errors.ModelMalformed: grpc.StatusCode.ABORTED,
    errors.BackendUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ModelUnavailable: grpc.StatusCode.UNAVAILABLE,
}
"""The one table from exception to status. Anything else becomes INTERNAL."""


def to_status(error: BaseException) -> status_pb2.Status:
    """The google.rpc.Status of an exception, with its details; INTERNAL hides them.

    A server whose memory is at its end is as good as away: another one may answer.
    """
    if isinstance(error, MemoryError):
        error = errors.BackendUnavailable("The server is out of memory; call again.")
    if not isinstance(error, errors.SynthAgentError) or type(error) is errors.SynthAgentError:
        return status_pb2.Status(
            code=code_pb2.INTERNAL,
            message="An internal error occurred; the server's log has its traceback.",
        )
    code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=errors.DOMAIN, metadata=error.metadata
        )
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(error.retry_after)
        details.append(info)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
