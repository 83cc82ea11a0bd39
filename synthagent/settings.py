"""Every setting of the services, read once at start-up from SYNTHAGENT_* environment variables.

Owns names, defaults and validation. A `Settings` value is frozen; parts receive it and look nothing
up. A variable with the prefix that is no setting is refused, so a typing error never runs silently
with a default.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SYNTHAGENT_"

Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(ValueError):
    """The environment does not give valid settings; the message says which variable and why."""


class Settings(BaseSettings):
    """Settings of a server process. SYNTHAGENT_<NAME> sets each; its text stands below it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_parse_none_str="none",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
    )

    database_url: str = "sqlite:///./synthagent.db"
    """SQLAlchemy URL of the database. A relative SQLite path starts at the working directory."""

    migrate: bool = True
    """Whether start-up brings the schema of the database to this version. With false, start-up
    refuses a database of another version."""

    database_readers: int = Field(4, ge=1, le=64)
    """Threads that read from the database at the same time."""

    database_busy_seconds: float = Field(10.0, gt=0, le=600)
    """Seconds to wait for another process that is writing before the call is UNAVAILABLE."""

    host: str = "127.0.0.1"
    """Interface to listen on. "0.0.0.0" or "[::]" means all of them."""

    port: Port = 50051
    """TCP port of the gRPC server. 0 means any free one; the ready line names it."""

    metrics_port: Port | None = 0
    """TCP port of the Prometheus metrics. 0 means any free one; none means no metrics port."""

    task_synthesis_address: str | None = None
    """host:port of TaskSynthesis. None means this server."""

    tool_mock_address: str | None = None
    """host:port of ToolMock. None means this server."""

    user_simulator_address: str | None = None
    """host:port of UserSimulator. None means this server."""

    rubric_judge_address: str | None = None
    """host:port of RubricJudge. None means this server."""

    rollout_address: str | None = None
    """host:port of Rollout. None means this server."""

    call_timeout_seconds: float = Field(30.0, gt=0, le=3600)
    """Deadline, in seconds, of a unary call to another service where no nearer one is inherited."""

    drain_seconds: float = Field(20.0, ge=0, le=3600)
    """Seconds that running calls are given to end after SIGTERM before they are ended."""

    max_message_bytes: int = Field(16 * 2**20, ge=2**16, le=2**30)
    """Most bytes of one gRPC message, in and out."""

    max_sessions: int = Field(4096, ge=1)
    """Most open tool sessions of this server; one more is RESOURCE_EXHAUSTED."""

    max_events: int = Field(20_000, ge=4)
    """Most events of an episode in a request; one more is INVALID_ARGUMENT."""

    max_concurrent_episodes: int = Field(128, ge=1)
    """Most episodes that this rollout service runs at the same time."""

    task_cache_size: int = Field(1024, ge=1)
    """Certified tasks whose compiled worlds are kept in memory, least recently used out first."""

    policy_model: str = "smollm2-135m-instruct"
    """Model of the local policy engine: a name of its model table, or a folder of a saved model."""

    policy_device: str = "auto"
    """Device of the local policy engine as torch names it ("cpu", "cuda:0"). "auto" means the first
    GPU, or the CPU where there is none."""

    policy_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the policy's weights while sampling. "auto" means what suits the device."""

    policy_max_sequences: int = Field(64, ge=1)
    """Most episodes whose key-value caches the policy engine holds at the same time."""

    policy_max_sequence_tokens: int = Field(2048, ge=64, le=1_048_576)
    """Most tokens of an episode in the policy engine, prompt included. A run that asks for more is
    refused."""

    policy_threads: int | None = Field(None, ge=1)
    """CPU threads of the policy engine. None means torch's own choice."""

    tokenize_reference_agents: bool = False
    """Whether trajectories of reference agents carry the tokens that the policy model would read
    and write for them, as demonstrations for supervised training. Needs the tokenizer only."""

    model_cache: Path = Path("~/.cache/synthagent")
    """Folder in which converted models are kept. May be deleted; it is filled again."""

    evaluation_items: Path | None = None
    """JSONL file of evaluation items that no task may nearly equal: objects with "id" and "text".
    None means that there are none to keep away from."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""

    log_format: Literal["console", "json"] = "console"
    """How log lines look on standard error: for people, or one JSON object a line."""

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        backend, separator, rest = value.partition("://")
        if not backend or not separator:
            raise ValueError("is no database URL; write it like sqlite:///./synthagent.db")
        if backend.startswith("sqlite") and rest.strip("/") in ("", ":memory:"):
            raise ValueError("must name a file, because every thread opens the database anew")
        return value

    @field_validator("model_cache", "evaluation_items")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None

    def describe(self) -> dict[str, object]:
        """All settings as printed at start-up; a password in the database URL is masked."""
        shown = self.model_dump(mode="json")
        shown["database_url"] = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", self.database_url)
        return shown


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` win, by setting name.

    Raises SettingsError, in one sentence, for an unknown variable or a value that does not fit.
    """
    for variable in os.environ:
        name = variable.upper().removeprefix(PREFIX).lower()
        if variable.upper().startswith(PREFIX) and name not in Settings.model_fields:
            raise SettingsError(_unknown(variable, name))
    try:
        return Settings.model_validate(overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in Settings.model_fields:
            raise SettingsError(_unknown(PREFIX + name.upper(), name)) from error
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(
            f"{PREFIX}{name.upper()} is {first['input']!r}, which does not fit: {message}"
        ) from error


def _unknown(variable: str, name: str) -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.0)
    return f"{variable} is no setting; did you mean {PREFIX}{close[0].upper()}?"
