"""Requests to the model server of one role: from messages to a finished text, or a typed error.

A `Connection` owns the HTTP client, the retries and the limit of requests in flight. Everything is
bounded: the time by the caller's deadline, the answer by its tokens and its bytes, the attempts by
the settings. Only what may pass is tried again (unreachable, 408, 429, 5xx), with back-off and
jitter, or when the server says. The key is read for every request, goes out in one header and is
cut out of everything that comes back.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import openai
import stamina
from pydantic import BaseModel, Field, ValidationError

from synthagent.errors import (
    ModelFault,
    ModelMalformed,
    ModelRefused,
    ModelTruncated,
    ModelUnavailable,
    PreconditionFailed,
)
from synthagent.llm.answers import Usage
from synthagent.llm.concurrency import AdaptiveLimit, Slot
from synthagent.llm.exchange import Completion, Request
from synthagent.metrics import ServerMetrics
from synthagent.settings import ModelRole

_CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 3.0  # below the 5 s after which common servers close an idle connection
_BYTES_BASE = 64 * 1024
_BYTES_PER_TOKEN = 256  # far more than any text needs, also escaped and beside its reasoning
_EXCERPT = 300
_REFUSED_CODES = ("content_filter", "content_policy_violation")


class _Said(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Tokens(BaseModel):
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)


class _Completion(BaseModel):
    """The part of a chat completion that is read."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens | None = None


class Connection:
    """The server of one role. Belongs to one event loop; `close` ends its connections."""

    def __init__(self, name: str, role: ModelRole, metrics: ServerMetrics) -> None:
        self._name = name
        self._role = role
        self._metrics = metrics
        self._limit = AdaptiveLimit(
            role.max_concurrency,
            metrics.model_concurrency_limit.labels(name),
            metrics.model_requests_in_flight.labels(name),
            metrics.model_requests_waiting.labels(name),
        )
        url = httpx2.URL(role.base_url)
        self._place = f"{url.host}:{url.port or url.scheme}"
        self._most_bytes = _BYTES_BASE + _BYTES_PER_TOKEN * role.max_tokens
        self._client = openai.AsyncOpenAI(
            base_url=role.base_url,
            api_key="unused",  # every request brings its own header
            max_retries=0,
            http_client=httpx2.AsyncClient(
                event_hooks={"response": [self._bound]},
                headers={"Accept-Encoding": "identity"},  # what is counted is what is read
                limits=httpx2.Limits(
                    max_connections=None,
                    max_keepalive_connections=role.max_concurrency,
                    keepalive_expiry=_KEEP_ALIVE_SECONDS,
                ),
            ),
        )
        self._client.organization = self._client.project = None  # of another server's account

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()

    async def complete(self, request: Request, deadline: float) -> Completion:
        """What the server answers, tried again while that may help and there is time.

        `deadline` is one of the event loop's clock; the caller ends the wait there. Raises
        ModelUnavailable, ModelRefused, ModelTruncated, ModelMalformed or ModelFault, and
        PreconditionFailed where the key or the model's name is wrong.
        """

        last: ModelUnavailable | None = None
        clock = asyncio.get_running_loop().time

        def back_off(error: Exception) -> bool | timedelta:
            nonlocal last
            if not isinstance(error, ModelUnavailable):
                return False
            last = error
            if error.retry_after is None:
                return True
            pause = error.retry_after + timedelta(seconds=random.uniform(0, 0.25))  # noqa: S311 - jitter
            return pause if pause.total_seconds() < deadline - clock() else False

        try:
            async for attempt in stamina.retry_context(
                on=back_off,
                attempts=self._role.attempts,
                timeout=None,
                wait_initial=0.25,
                wait_max=10.0,
                wait_jitter=0.5,
            ):
                with attempt:
                    return await self._attempt(request, deadline)
        except asyncio.CancelledError:
            if last is not None and clock() >= deadline:
                raise last from None  # says more than that the time is over
            raise
        raise AssertionError("unreachable")

    async def _attempt(self, request: Request, deadline: float) -> Completion:
        key = await self._key()
        async with self._limit.slot() as slot:
            started = time.perf_counter()
            status = "unreadable"
            try:
                response = await self._send(request, key, deadline)
                status = str(response.status_code)
                slot.succeed()
            except openai.APITimeoutError:
                status = "timeout"
                slot.push_back()
                raise ModelUnavailable(self._text("did not answer in time")) from None
            except openai.APIConnectionError as error:
                status = "unreachable"
                raise ModelUnavailable(self._text(_breakdown(error, key))) from None
            except openai.APIStatusError as error:
                status = str(error.status_code)
                raise self._refusal(error, key, slot) from None
            except asyncio.CancelledError:
                late = asyncio.get_running_loop().time() >= deadline
                status = "timeout" if late else "cancelled"
                if late:
                    slot.push_back()
                raise
            finally:
                self._metrics.model_requests.labels(self._name, status).inc()
        return self._read(response, time.perf_counter() - started, key)

    async def _send(self, request: Request, key: str | None, deadline: float) -> httpx2.Response:
        left = max(0.001, deadline - asyncio.get_running_loop().time())
        asked = {
            "model": self._role.model,
            "messages": [message._asdict() for message in request.messages],
            "max_completion_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "response_format": request.response_format,
        }
        # The typed method of the client walks through every message and schema, twice; what comes
        # back is validated here anyway.
        return await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            body={name: value for name, value in asked.items() if value is not None},
            options={
                "headers": {"Authorization": openai.omit if key is None else f"Bearer {key}"},
                "timeout": httpx2.Timeout(left, connect=min(_CONNECT_SECONDS, left)),
            },
        )

    async def _key(self) -> str | None:
        """The key as it is now. Raises PreconditionFailed where there is no usable one."""
        path, secret = self._role.api_key_file, self._role.api_key
        if path is None:
            key = "" if secret is None else secret.get_secret_value().strip()
        else:
            try:
                key = (await asyncio.to_thread(path.read_text, "utf-8")).strip()
            except (OSError, ValueError):
                raise PreconditionFailed(
                    f"The key of the {self._name} model cannot be read from {path}; give the path "
                    "of a text file that this process may read."
                ) from None
        if not key.isascii() or not key.isprintable():
            variable = self._variable("API_KEY" if path is None else "API_KEY_FILE")
            raise PreconditionFailed(
                f"The key that {variable} gives holds characters that no header can carry; "
                "give the key alone, on one line."
            )
        return key or None

    async def _bound(self, response: httpx2.Response) -> None:
        """Bounds what is read of a response, before any of it is."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ModelMalformed(
                self._text("sent a compressed answer, though none was asked for; switch it off")
            )
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - as this client is
        too_long = ModelTruncated(
            self._text(f"sent more than {self._most_bytes} bytes; the answer was cut off")
        )
        response.stream = _Bounded(response.stream, self._most_bytes, too_long)

    def _read(self, response: httpx2.Response, seconds: float, key: str | None) -> Completion:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ModelMalformed(
                self._text(f"answered with {kind or 'no content type'}, not JSON; check base_url")
            )
        try:
            body = _Completion.model_validate_json(response.content)
        except ValidationError:
            shown = _plain(response.text, key)
            raise ModelMalformed(self._text(f"sent no chat completion: {shown}")) from None
        tokens = body.usage or _Tokens.model_construct(prompt_tokens=0, completion_tokens=0)
        choice = body.choices[0]
        if choice.finish_reason == "abort":  # vLLM's word where it was stopped meanwhile
            raise ModelUnavailable(self._text("broke off the answer"))
        return Completion(
            text=choice.message.content or "",
            refusal=_plain(choice.message.refusal or "", key),
            finish_reason=choice.finish_reason or "stop",
            usage=Usage(
                calls=1,
                prompt_tokens=tokens.prompt_tokens,
                completion_tokens=tokens.completion_tokens,
                cost=(
                    tokens.prompt_tokens * self._role.prompt_price
                    + tokens.completion_tokens * self._role.completion_price
                )
                / 1e6,
                seconds=seconds,
            ),
        )

    def _refusal(
        self, error: openai.APIStatusError, key: str | None, slot: Slot
    ) -> ModelUnavailable | ModelFault | PreconditionFailed:
        """What a status that is no success means."""
        status = error.status_code
        said = _said(error, key)
        if status in (429, 503):
            slot.push_back()
        if status in (408, 429) or status >= 500:
            return ModelUnavailable(
                self._text(f"answered {status}: {said}"),
                retry_after=_retry_after(error.response.headers.get("retry-after")),
            )
        if status in (401, 403):
            return PreconditionFailed(
                self._text(f"answered {status}; check {self._variable('API_KEY')}, the key")
            )
        if status == 404:
            return PreconditionFailed(
                self._text(
                    f"answered 404 for model {self._role.model!r}; check "
                    f"{self._variable('MODEL')} and {self._variable('BASE_URL')}"
                )
            )
        if error.code in _REFUSED_CODES:
            return ModelRefused(self._text(f"refused the request: {said}"))
        return ModelFault(self._text(f"answered {status}: {said}"))

    def _text(self, what: str) -> str:
        return f"The {self._name} model's server at {self._place} {what}."

    def _variable(self, field: str) -> str:
        return f"SYNTHAGENT_{self._name.upper()}__{field}"


class _Bounded(httpx2.AsyncByteStream):
    """A response's body that ends with an error where it is too long."""

    def __init__(self, body: httpx2.AsyncByteStream, most: int, error: Exception) -> None:
        self._body = body
        self._most = most
        self._error = error

    async def __aiter__(self) -> Any:
        left = self._most
        async for chunk in self._body:
            left -= len(chunk)
            if left < 0:
                raise self._error
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


def _breakdown(error: openai.APIConnectionError, key: str | None) -> str:
    """How a connection failed."""
    cause = error.__cause__
    said = _plain(str(cause), key) or type(cause).__name__
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        return f"cannot be reached ({said}); see that it runs"
    return f"broke the connection off ({said})"


def _said(error: openai.APIStatusError, key: str | None) -> str:
    """What a server says about its refusal: its message, or what stands for one."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return _plain(message if isinstance(message, str) else error.response.text, key)


def _plain(text: str, key: str | None) -> str:
    """A server's words for one of our sentences: one line, short, and without the key.

    Without what cannot be sent or stored, too: control characters and lone surrogates.
    """
    if key:
        text = text.replace(key, "***")
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= _EXCERPT else words[: _EXCERPT - 1] + "…"


def _retry_after(value: str | None) -> timedelta | None:
    """The delay of a Retry-After header: seconds, or a date."""
    if not value:
        return None
    try:
        return timedelta(seconds=max(0.0, float(value)))
    except (ValueError, OverflowError):
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(timedelta(0), moment - datetime.now(UTC))
