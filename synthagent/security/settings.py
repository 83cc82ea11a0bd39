"""Settings of the security of a process: TLS, callers, limits per caller, audit.

`SecuritySettings` is the part of a server's settings that is told here; a client process (the
command line, the trainer) reads only this part, from the same variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SYNTHAGENT_"

Port = Annotated[int, Field(ge=0, le=65535)]
Limit = Annotated[int, Field(ge=1)]


class SecuritySettings(BaseSettings):
    """SYNTHAGENT_<NAME> sets each; its text stands below it. All files are read again when they
    change."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="none",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
    )

    tls_certificate_file: Path | None = None
    """PEM file of this process's certificate, its chain behind it: a server shows it to callers, a
    client to servers that ask. None means none: servers then listen without TLS."""

    tls_key_file: Path | None = None
    """PEM file of that certificate's private key, not encrypted. None means none;
    a certificate needs one."""

    tls_ca_file: Path | None = None
    """PEM file of the authorities that sign servers' and callers' certificates. A client with it
    speaks TLS only. None means that clients speak without TLS."""

    tls_mutual: bool = True
    """Whether a server with TLS asks every caller for a certificate that those authorities signed.
    With false, callers are known by their tokens only."""

    tls_server_name: str | None = None
    """Name that the certificates of servers must bear. None means the host of each address."""

    health_port: Port | None = None
    """TCP port that answers health checks only, without TLS: Kubernetes' probes speak none. 0 means
    any free one; None means none."""

    callers_file: Path | None = None
    """TOML file of the callers that are let in, and their roles: see docs/security.md. None means
    that everybody may call everything."""

    token_file: Path | None = None
    """File with the token that this process shows to servers. None means that it shows none."""

    caller_max_message_bytes: Limit | None = None
    """Most bytes of one message of one caller. None means max_message_bytes for everybody."""

    caller_max_in_flight: Limit | None = None
    """Most calls of one caller that run at once in this process. None means no limit."""

    caller_max_streams: Limit | None = None
    """Most streams of one caller that are open at once in this process. None means no limit."""

    caller_max_sessions: Limit | None = None
    """Most tool sessions of one caller that are open at once in this process. None means no limit
    but max_sessions."""

    caller_max_tasks_per_hour: Limit | None = None
    """Most tasks that one caller asks this process to synthesize or import within an hour; a
    repeated request counts once. None means no limit."""

    caller_max_episode_events: Limit | None = None
    """Most events of an episode that one caller sends for a reply or a verdict, calls of a tool
    session, and turns of a run. None means no limit but max_events."""

    audit_file: Path | None = None
    """File to which one JSON line is added for every call that changes something. None means
    standard error where callers_file is set, and nothing otherwise."""

    @field_validator(
        "tls_certificate_file", "tls_key_file", "tls_ca_file", "callers_file", "token_file",
        "audit_file",
    )  # fmt: skip
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None
