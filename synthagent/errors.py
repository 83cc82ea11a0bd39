"""Every error of SynthAgent and the status that each becomes.

    SynthAgentError                       reason                  status
    ├── InvalidInput                      INVALID_INPUT           INVALID_ARGUMENT
    │   └── MissingDeadline               MISSING_DEADLINE        INVALID_ARGUMENT
    ├── NotFound                          NOT_FOUND               NOT_FOUND
    ├── Conflict                          CONFLICT                ALREADY_EXISTS
    │   └── RequestIdReused               REQUEST_ID_REUSED       ALREADY_EXISTS
    ├── PreconditionFailed                PRECONDITION_FAILED     FAILED_PRECONDITION
    │   └── Uncertified                   UNCERTIFIED             FAILED_PRECONDITION
    ├── StepOutOfRange                    STEP_OUT_OF_RANGE       OUT_OF_RANGE
    ├── LimitExceeded                     LIMIT_EXCEEDED          RESOURCE_EXHAUSTED
    │   └── StorageFull                   STORAGE_FULL            RESOURCE_EXHAUSTED
    ├── StateDiverged                     STATE_DIVERGED          ABORTED
    ├── Cancelled                         CANCELLED               CANCELLED
    ├── Unauthenticated                   UNAUTHENTICATED         UNAUTHENTICATED
    ├── PermissionDenied                  PERMISSION_DENIED       PERMISSION_DENIED
    ├── Corrupt                           CORRUPT                 DATA_LOSS
    ├── ModelFault                        MODEL_FAULT             ABORTED
    │   ├── ModelRefused                  MODEL_REFUSED           ABORTED
    │   ├── ModelTruncated                MODEL_TRUNCATED         ABORTED
    │   └── ModelMalformed                MODEL_MALFORMED         ABORTED
    └── BackendUnavailable                BACKEND_UNAVAILABLE     UNAVAILABLE
        └── ModelUnavailable              MODEL_UNAVAILABLE       UNAVAILABLE

`statuses.py` holds the one table from exception to status. Anything else becomes INTERNAL without
detail. Messages say what was wrong and what to do. The trainer adds `TrainingDiverged` and
`RankLost`, which end its process and never cross the contract.
"""

from __future__ import annotations

from datetime import timedelta

DOMAIN = "synthagent.api.v1"


class SynthAgentError(Exception):
    """Base of all. `metadata` goes out as ErrorInfo metadata: identifiers, never secrets."""

    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after: timedelta | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.metadata = metadata


class InvalidInput(SynthAgentError):
    """The caller's input is wrong whatever the state; `field` names the field."""

    reason = "INVALID_INPUT"


class MissingDeadline(InvalidInput):
    """A unary call came without a deadline."""

    reason = "MISSING_DEADLINE"


class NotFound(SynthAgentError):
    """The named thing is not stored."""

    reason = "NOT_FOUND"


class Conflict(SynthAgentError):
    """The named thing is stored with other content."""

    reason = "CONFLICT"


class RequestIdReused(Conflict):
    """A request_id came again with other content."""

    reason = "REQUEST_ID_REUSED"


class PreconditionFailed(SynthAgentError):
    """The state does not allow it; retrying without a change does not help."""

    reason = "PRECONDITION_FAILED"


class Uncertified(PreconditionFailed):
    """A task without a passing certificate."""

    reason = "UNCERTIFIED"


class StepOutOfRange(SynthAgentError):
    """A step beyond the run's last."""

    reason = "STEP_OUT_OF_RANGE"


class LimitExceeded(SynthAgentError):
    """A limit of the server or caller was reached."""

    reason = "LIMIT_EXCEEDED"


class StorageFull(LimitExceeded):
    """The disk or database has no room left."""

    reason = "STORAGE_FULL"


class StateDiverged(SynthAgentError):
    """A replay gave another state hash than recorded."""

    reason = "STATE_DIVERGED"


class Cancelled(SynthAgentError):
    """The thing was cancelled on request."""

    reason = "CANCELLED"


class Unauthenticated(SynthAgentError):
    """The server does not know who calls, and lets in only whom it knows."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(SynthAgentError):
    """The caller is known, and its role may not do this."""

    reason = "PERMISSION_DENIED"


class Corrupt(SynthAgentError):
    """Stored or given data is damaged."""

    reason = "CORRUPT"


class BackendUnavailable(SynthAgentError):
    """Another service or the database cannot be reached; a retry may help."""

    reason = "BACKEND_UNAVAILABLE"


class ModelUnavailable(BackendUnavailable):
    """A model server cannot be reached, is overloaded or failed, after every retry."""

    reason = "MODEL_UNAVAILABLE"


class ModelFault(SynthAgentError):
    """A model server answered, and the answer is of no use; the same request gives it again."""

    reason = "MODEL_FAULT"


class ModelRefused(ModelFault):
    """The model or its server declined to answer."""

    reason = "MODEL_REFUSED"


class ModelTruncated(ModelFault):
    """The answer did not end within its limit of tokens or bytes."""

    reason = "MODEL_TRUNCATED"


class ModelMalformed(ModelFault):
    """The answer does not fit what was asked for, also after its repair."""

    reason = "MODEL_MALFORMED"


def as_detail(error: SynthAgentError) -> str:
    """The error as the detail of an INVALID verdict: its reason, and what was wrong."""
    return f"{error.reason}: {error.message}"


_OUTAGES = (BackendUnavailable.reason, ModelUnavailable.reason, PreconditionFailed.reason)


def is_outage(detail: str) -> bool:
    """Whether such a detail tells of a backend out of reach or not set up: later may be better."""
    return detail.partition(":")[0] in _OUTAGES
