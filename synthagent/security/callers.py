"""Who calls: known by a token, or by the certificate that the connection was made with.

The callers file lists everybody who is let in. A caller has a name, for limits and the audit log,
a role, and what it is known by; the same name may stand there again with another token, so that a
token is replaced without a moment in which neither works:

    [[caller]]
    name = "trainer-a"
    role = "trainer"
    token_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

    [[caller]]
    name = "rollout"
    role = "service"
    certificate = "synthagent-rollout"   # a subject alternative name, or the common name
    [caller.limits]                      # in place of SYNTHAGENT_CALLER_MAX_*
    streams = 100

Tokens are random and long (`python -m synthagent.security` makes them), so that their plain SHA-256
gives nothing away and needs no salt.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synthagent.errors import Unauthenticated
from synthagent.security.access import Role
from synthagent.security.settings import Limit, SecuritySettings
from synthagent.security.watched import UnusableFile, Watched, read

AUTHORIZATION = "authorization"
_BEARER = "bearer "
_NAMES = ("x509_subject_alternative_name", "x509_common_name")
_HOW = (
    "Show a token (SYNTHAGENT_TOKEN_FILE) or a certificate (SYNTHAGENT_TLS_CERTIFICATE_FILE) of a "
    "caller that the server's callers file lists."
)


class CallerLimits(BaseModel):
    """What one caller may use of a process at once. None means no limit; units: the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message_bytes: Limit | None = None
    in_flight: Limit | None = None
    streams: Limit | None = None
    sessions: Limit | None = None
    tasks_per_hour: Limit | None = None
    episode_events: Limit | None = None

    @classmethod
    def of(cls, settings: SecuritySettings) -> Self:
        """What the settings allow each caller whose own entry says nothing else."""
        return cls(**{name: getattr(settings, f"caller_max_{name}") for name in cls.model_fields})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a call. `role` is None where everybody is let in."""

    name: str
    role: Role | None
    limits: CallerLimits


class _Entry(BaseModel):
    """One [[caller]] of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/@-]{1,64}$")]
    role: Role
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    limits: CallerLimits = CallerLimits()

    @model_validator(mode="after")
    def _known_by_one(self) -> Self:
        if (self.token_sha256 is None) == (self.certificate is None):
            raise ValueError("needs either token_sha256 or certificate")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    caller: list[_Entry]


@dataclass(frozen=True, slots=True)
class _Known:
    """Callers by what they are known by."""

    by_token: Mapping[str, Caller]
    by_certificate: Mapping[str, Caller]


class Callers:
    """The callers of a file, followed while it changes."""

    def __init__(self, path: Path, defaults: CallerLimits) -> None:
        """Reads the file; raises UnusableFile."""
        self._known = Watched([path], lambda: _load(path, defaults))

    def identify(
        self,
        metadata: Iterable[tuple[str, str | bytes]],
        certificate: Mapping[str, Iterable[bytes]],
    ) -> Caller:
        """The caller of a call with this metadata over a connection with this certificate.

        A token decides where one is shown, also a wrong one. Raises Unauthenticated.
        """
        known = self._known.current()
        for key, value in metadata:
            if key == AUTHORIZATION:
                caller = known.by_token.get(_hash_of_bearer(value))
                if caller is None:
                    raise Unauthenticated(f"The token is not known here. {_HOW}")
                return caller
        names = [
            name.decode(errors="replace") for key in _NAMES for name in certificate.get(key, ())
        ]
        for name in names:
            if name in known.by_certificate:
                return known.by_certificate[name]
        if names:
            raise Unauthenticated(f"The certificate of {names[0]!r} is not known here. {_HOW}")
        raise Unauthenticated(f"The call says not who makes it. {_HOW}")


def token_hash(token: str) -> str:
    """What a callers file holds of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _hash_of_bearer(value: str | bytes) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    if text[: len(_BEARER)].lower() != _BEARER:
        return ""
    return token_hash(text[len(_BEARER) :].strip())


def _load(path: Path, defaults: CallerLimits) -> _Known:
    try:
        entries = _File.model_validate(tomllib.loads(read(path).decode())).caller
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnusableFile(
            f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
    except ValueError as error:  # TOML and UTF-8; tells a place, and no text of the file
        raise UnusableFile(f"{path} is no TOML: {_place(error)}") from None
    by_token: dict[str, Caller] = {}
    by_certificate: dict[str, Caller] = {}
    roles: dict[str, Role] = {}
    for entry in entries:
        if roles.setdefault(entry.name, entry.role) is not entry.role:
            raise UnusableFile(f"{path}: caller {entry.name!r} has two roles.")
        given = entry.limits.model_dump(exclude_unset=True)
        caller = Caller(entry.name, entry.role, defaults.model_copy(update=given))
        where, key = (
            (by_token, entry.token_sha256)
            if entry.token_sha256
            else (by_certificate, entry.certificate)
        )
        if where.setdefault(str(key), caller) is not caller:
            raise UnusableFile(f"{path}: caller {entry.name!r} is known by what another one is.")
    return _Known(by_token, by_certificate)


def _place(error: ValueError) -> str:
    """Where a text is wrong, without the text."""
    return "it is not UTF-8." if isinstance(error, UnicodeDecodeError) else f"{error}."
