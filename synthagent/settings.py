"""Every setting of the services, read once at start-up from SYNTHAGENT_* environment variables.

Owns names, defaults and validation. A `Settings` value is frozen; parts receive it and look nothing
up. A variable with the prefix that is no setting is refused, so a typing error never runs silently
with a default.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from synthagent.security import settings as security
from synthagent.security.settings import Port, SecuritySettings

PREFIX = security.PREFIX
_OF_OTHERS = frozenset({"address", "data_dir", "released_tasks"})  # of the command line, of tests


class ModelRole(BaseModel):
    """The model of a role. SYNTHAGENT_<ROLE>__<NAME> sets each field; its text stands below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_url: str = Field(pattern=r"^https?://[^\s]+$")
    """Base URL of an OpenAI-compatible server, with its version path ("http://host:8000/v1")."""

    model: str = Field(min_length=1)
    """Name of the model as the server knows it."""

    api_key: SecretStr | None = None
    """Key of the server. None means that it asks for none. Never logged."""

    api_key_file: Path | None = None
    """File that holds the key, read at every connection, so that it may be replaced. Wins over
    api_key. None means that there is no file."""

    temperature: float | None = Field(None, ge=0, le=2)
    """Temperature. None means what suits the request (0.9 for a teacher's inventions, 0 for a
    judge with one vote)."""

    max_tokens: int = Field(1024, ge=16, le=131_072)
    """Most tokens of one answer; one that does not end within them is a fault, never used."""

    timeout_seconds: float = Field(60.0, gt=0, le=3600)
    """Deadline, in seconds, of one call, where no nearer one is inherited."""

    attempts: int = Field(4, ge=1, le=20)
    """Calls made before a server that is unreachable, overloaded or failing is given up."""

    max_concurrency: int = Field(32, ge=1, le=4096)
    """Most calls in flight from this process; fewer while the server pushes back."""

    prompt_price: float = Field(0.0, ge=0)
    """Price of a million tokens read, in a currency of your choice."""

    completion_price: float = Field(0.0, ge=0)
    """Price of a million tokens written, in the same currency."""


class SettingsError(ValueError):
    """The environment does not give valid settings; the message says which variable and why."""


class Settings(SecuritySettings):
    """Settings of a server process. SYNTHAGENT_<NAME> sets each; its text stands below it, or in
    `SecuritySettings`."""

    database_url: str = "sqlite:///./synthagent.db"
    """SQLAlchemy URL of the database. A relative SQLite path starts at the working directory."""

    migrate: bool = True
    """Whether start-up brings the schema of the database to this version. With false, start-up
    refuses a database of another version."""

    database_readers: int = Field(4, ge=1, le=64)
    """Threads that read from the database at the same time. One more writes, and each holds a
    connection: PostgreSQL needs max_connections of at least (readers + 1) x processes."""

    database_busy_seconds: float = Field(10.0, gt=0, le=600)
    """Seconds to wait for another process that is writing, or for a connection, before the call is
    UNAVAILABLE."""

    database_statement_seconds: float = Field(30.0, gt=0, le=3600)
    """Seconds after which PostgreSQL ends a statement, or a transaction whose process stands still,
    so that none holds locks for ever; the call is UNAVAILABLE. SQLite has no such limit."""

    host: str = "127.0.0.1"
    """Interface to listen on. "0.0.0.0" or "[::]" means all of them."""

    port: Port = 50051
    """TCP port of the gRPC server. 0 means any free one; the ready line names it."""

    metrics_port: Port | None = 0
    """TCP port of the Prometheus metrics. 0 means any free one; none means no metrics port."""

    traces_endpoint: str | None = None
    """URL to which spans are sent by OTLP over HTTP, as http://collector:4318/v1/traces. None means
    no traces."""

    traces_share: float = Field(1.0, gt=0, le=1)
    """Share of traces that are kept; an episode is one trace, and kept whole or not at all."""

    task_synthesis_address: str | None = None
    """Target of TaskSynthesis: host:port, "dns:///NAME:PORT" for every address of a name (of a
    headless service), or "ipv4:HOST:PORT,HOST:PORT"; calls are balanced over all. None means this
    server."""

    tool_mock_address: str | None = None
    """Target of ToolMock: as above. None means this server."""

    user_simulator_address: str | None = None
    """Target of UserSimulator: as above. None means this server."""

    rubric_judge_address: str | None = None
    """Target of RubricJudge: as above. None means this server."""

    rollout_address: str | None = None
    """Target of Rollout: as above. None means this server."""

    teacher: ModelRole | None = None
    """Model that invents tasks. None means that only the programmatic teacher works."""

    tool: ModelRole | None = None
    """Model that answers for simulated tools. None means that calls of them fail as faults."""

    user: ModelRole | None = None
    """Model that speaks for the user. None means the embedded user, which has typed facts only."""

    judge: ModelRole | None = None
    """Model that judges what the engine cannot. None means that such criteria end INVALID."""

    judge_votes: int = Field(3, ge=1, le=31)
    """Votes that the judge's model casts on each criterion."""

    user_audit: bool = True
    """Whether the user's model is also asked, after an episode, if the user kept to its rules."""

    policy_base_url: str | None = None
    """Base URL of a vLLM server that acts as the policy engine. None means the local engine."""

    policy_served_model: str = "policy"
    """Name of the policy model as that server knows it."""

    keepalive_seconds: float = Field(20.0, ge=1, le=3600)
    """Seconds of silence on a connection after which an end asks whether the other is there."""

    keepalive_timeout_seconds: float = Field(10.0, ge=1, le=600)
    """Seconds without an answer to that after which the connection is given up, with its calls."""

    connection_age_seconds: float | None = Field(300.0, ge=1, le=86_400)
    """Seconds, give or take a tenth, after which clients are told to connect anew, so that replicas
    that were added since get their share. None means never."""

    connection_grace_seconds: float = Field(3600.0, ge=1, le=86_400)
    """Seconds that calls which run on such a connection may go on before they are ended."""

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

    policy_deterministic: bool = False
    """Whether the local policy engine computes each episode alone: slower, and its samples are the
    same to the last bit whatever else runs and however often it was restarted."""

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
        """All settings as printed at start-up; keys, and passwords in URLs, are masked."""
        shown: dict[str, object] = self.model_dump(mode="json")
        return {name: _masked(value) for name, value in shown.items()}


def _masked(value: object) -> object:
    """The value without the passwords in its URLs, wherever they stand. Keys mask themselves."""
    if isinstance(value, dict):
        return {name: _masked(part) for name, part in value.items()}
    if not isinstance(value, str) or "://" not in value:
        return value
    value = re.sub(r"([?&][^=&]*)=[^&#]*", r"\1=***", value)
    if value.startswith("http"):  # a token may stand alone there
        return re.sub(r"://[^/]*@", "://***@", value)
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", value)


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` win, by setting name.

    Raises SettingsError, in one sentence, for an unknown variable or a value that does not fit.
    """
    for variable in os.environ:
        name = variable.upper().removeprefix(PREFIX).lower()
        if variable.upper().startswith(PREFIX) and name not in _OF_OTHERS:
            _check_name(variable, name.split("__"))
    try:
        return Settings.model_validate(overrides)
    except ValidationError as error:
        first = error.errors()[0]
    # Raised out here: the validation error shows whole inputs, and keys are among them.
    path = [str(part) for part in first["loc"]]
    variable = PREFIX + "__".join(path).upper()
    _check_name(variable, path)
    if first["type"] == "missing":
        raise SettingsError(f"{variable} is not set, and the {path[0]} model needs it.")
    if len(path) == 1 and path[0] in _roles():
        raise SettingsError(
            f"{variable} is no setting by itself; set {variable}__BASE_URL and {variable}__MODEL."
        )
    message = first["msg"].removeprefix("Value error, ")
    secret = path[-1] == "api_key"
    shown = "a key" if secret else repr(_masked(first["input"]))
    raise SettingsError(f"{variable} is {shown}, which does not fit: {message}")


def _roles() -> list[str]:
    return [
        name
        for name, field in Settings.model_fields.items()
        if ModelRole in getattr(field.annotation, "__args__", ())
    ]


def _check_name(variable: str, path: list[str]) -> None:
    """Raises SettingsError where there is no setting of that path."""
    meant = [_closest(path[0], Settings.model_fields)]
    if len(path) > 1 and meant[0] in _roles():
        meant.append(_closest(path[1], ModelRole.model_fields))
    if path != meant:
        closest = PREFIX + "__".join(meant).upper()
        raise SettingsError(f"{variable} is no setting; did you mean {closest}?")


def _closest(name: str, names: Iterable[str]) -> str:
    """The name itself where it is one of them."""
    known = list(names)
    return name if name in known else difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
