"""The model of one role, as everything else sees it: ask for text, or for a value of a schema.

Every question is keyed. The same key with the same content gets the stored answer, whether the
caller retries, replays, or asks twice at once: then one computes and the others wait. Answers are
stored before they are returned; errors never are. All that a question takes (waiting for a place in
flight, retries, repairs) happens within one deadline.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

import orjson
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, JsonValue

from synthagent import accounts, deadlines, tracing
from synthagent.errors import (
    ModelFault,
    ModelMalformed,
    ModelRefused,
    ModelTruncated,
    ModelUnavailable,
)
from synthagent.llm.answers import Answer, Message, Usage, count
from synthagent.llm.exchange import Completion, Request
from synthagent.llm.prompts import render
from synthagent.llm.quotation import escaped
from synthagent.llm.structure import Structure, UnfitAnswerError
from synthagent.metrics import ServerMetrics
from synthagent.settings import ModelRole
from synthagent.store import Store
from synthagent.store.responses import StoredResponse, find, put
from synthagent.worlds.protocol import without_reasoning

if TYPE_CHECKING:  # imports the client library, which only a configured role needs
    from synthagent.llm.connection import Connection

B = TypeVar("B", bound=BaseModel)
V = TypeVar("V")
_SHOWN_TO_REPAIR = 8000  # characters of an unfit answer; the problem rarely lies beyond them
_PROVIDER = "openai_compatible"
"""What spans call whoever serves the model: known by its protocol alone."""

_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (ModelUnavailable, "unavailable"),
    (ModelRefused, "refused"),
    (ModelTruncated, "truncated"),
    (ModelMalformed, "malformed"),
    (asyncio.CancelledError, "cancelled"),
)


_Result = StoredResponse | ModelUnavailable | ModelFault | None
"""What those that wait for a running call get. None, where it was cancelled: they compute anew."""


@dataclass(slots=True)
class _Ended:
    """How a call ended, for its metrics."""

    outcome: str = "answered"


@dataclass(frozen=True, slots=True)
class _Question:
    """One call of `text` or `structured`: its request, its place in the store, its label."""

    request: Request
    store_key: str
    purpose: str


class LanguageModel:
    """The model of one role. Calls may run concurrently; they belong to one event loop."""

    def __init__(
        self,
        name: str,
        role: ModelRole,
        connection: Connection,
        store: Store,
        metrics: ServerMetrics,
    ) -> None:
        self._name = name
        self._role = role
        self._connection = connection
        self._store = store
        self._metrics = metrics
        self._running: dict[str, asyncio.Future[_Result]] = {}
        self._structures: dict[type[BaseModel], Structure[Any]] = {}

    async def text(
        self,
        messages: Sequence[Message],
        *,
        key: str,
        purpose: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Answer[str]:
        """What the model says, without its reasoning; never empty.

        `key` names the call for replay; `purpose` is a short label for metrics. The temperature of
        the settings wins over the given one, and the lower limit of tokens. `stop` strings end the
        text and are not part of it.

        Raises ModelUnavailable, ModelRefused, ModelTruncated, ModelMalformed or ModelFault.
        """
        request = self._request(messages, temperature, max_tokens, seed, stop)
        question = self._question(request, key, purpose, b"")
        stored, was_stored = await self._answer(question, self._say)
        return Answer(stored.response, _usage(stored), was_stored)

    @overload
    async def structured(
        self,
        messages: Sequence[Message],
        schema: type[B],
        *,
        key: str,
        purpose: str,
        temperature: float | None = ...,
        max_tokens: int | None = ...,
        seed: int | None = ...,
        repairs: int = ...,
    ) -> Answer[B]: ...

    @overload
    async def structured(
        self,
        messages: Sequence[Message],
        schema: dict[str, JsonValue],
        *,
        key: str,
        purpose: str,
        temperature: float | None = ...,
        max_tokens: int | None = ...,
        seed: int | None = ...,
        repairs: int = ...,
    ) -> Answer[JsonValue]: ...

    async def structured(
        self,
        messages: Sequence[Message],
        schema: type[B] | dict[str, JsonValue],
        *,
        key: str,
        purpose: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        repairs: int = 1,
    ) -> Answer[B] | Answer[JsonValue]:
        """A value of the schema: a pydantic model, or JSON for a JSON Schema.

        An answer that does not fit is shown to the model with the reason, `repairs` times at most;
        then it is ModelMalformed. Otherwise like `text`; also raises InvalidInput for a schema that
        is none.
        """
        structure = self._structure(schema)
        request = self._request(messages, temperature, max_tokens, seed, ())
        question = self._question(request, key, purpose, structure.identity)

        async def compute(question: _Question, deadline: float) -> StoredResponse:
            return await self._fit(question, deadline, structure, repairs)

        stored, was_stored = await self._answer(question, compute)
        try:
            value = structure.parse(stored.response)
        except UnfitAnswerError as error:  # of another version's stricter or looser checks
            raise ModelMalformed(f"The stored answer of the {self._name} model: {error}.") from None
        return Answer(value, _usage(stored), was_stored)

    def _structure(self, schema: type[BaseModel] | dict[str, JsonValue]) -> Structure[Any]:
        if isinstance(schema, dict):
            return Structure(schema)
        if schema not in self._structures:
            self._structures[schema] = Structure(schema)
        return self._structures[schema]

    def _request(
        self,
        messages: Sequence[Message],
        temperature: float | None,
        max_tokens: int | None,
        seed: int | None,
        stop: Sequence[str],
    ) -> Request:
        most = self._role.max_tokens
        own = self._role.temperature
        return Request(
            messages=tuple(Message(role, _encodable(content)) for role, content in messages),
            max_tokens=most if max_tokens is None else min(most, max_tokens),
            temperature=temperature if own is None else own,
            seed=seed,
            stop=tuple(stop),
        )

    def _question(self, request: Request, key: str, purpose: str, schema: bytes) -> _Question:
        asked = (
            [_encodable(key), self._name, self._role.model, request.max_tokens],
            [tuple(message) for message in request.messages],
            [request.temperature, request.seed, request.stop],
        )
        content = orjson.dumps(asked) + schema
        return _Question(request, hashlib.sha256(content).hexdigest(), purpose)

    async def _answer(
        self,
        question: _Question,
        compute: Callable[[_Question, float], Awaitable[StoredResponse]],
    ) -> tuple[StoredResponse, bool]:
        """The answer, and whether another call had made it. Counts the outcome."""
        seconds = deadlines.timeout(self._role.timeout_seconds)
        assert seconds is not None  # noqa: S101 - a default was given
        attributes = {
            tracing.OPERATION: "chat",
            tracing.PROVIDER: _PROVIDER,
            tracing.MODEL: self._role.model,
            "synthagent.role": self._name,
            "synthagent.purpose": question.purpose,
        }
        name = f"chat {self._role.model}"
        with (
            tracing.span(name, attributes, kind=SpanKind.CLIENT) as span,
            self._counted(question.purpose) as ended,
        ):
            try:
                # One moment for both: who is cancelled at it must see that it has come.
                deadline = asyncio.get_running_loop().time() + seconds
                async with asyncio.timeout_at(deadline) as limit:
                    answer, stored = await self._once(question, compute, deadline)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise ModelUnavailable(
                    f"The {self._name} model gave no answer within {seconds:.3g} seconds."
                ) from None
            if stored:
                ended.outcome = "stored"
                count(_usage(answer))
            span.set_attribute("synthagent.stored", stored)
            span.set_attribute(tracing.INPUT_TOKENS, answer.prompt_tokens)
            span.set_attribute(tracing.OUTPUT_TOKENS, answer.completion_tokens)
        return answer, stored

    @contextmanager
    def _counted(self, purpose: str) -> Iterator[_Ended]:
        """Counts the call of the block by its outcome, and times it where it was no stored one."""
        labels = (self._name, purpose)
        started = time.perf_counter()
        ended = _Ended()
        try:
            yield ended
        except BaseException as error:
            kinds = (name for kind, name in _OUTCOMES if isinstance(error, kind))
            ended.outcome = next(kinds, "fault")
            raise
        finally:
            self._metrics.model_calls.labels(*labels, ended.outcome).inc()
            if ended.outcome != "stored":
                seconds = time.perf_counter() - started
                self._metrics.model_call_seconds.labels(*labels).observe(seconds)

    async def _once(
        self,
        question: _Question,
        compute: Callable[[_Question, float], Awaitable[StoredResponse]],
        deadline: float,
    ) -> tuple[StoredResponse, bool]:
        key = question.store_key
        while running := self._running.get(key):
            # Shielded: the end of one that waits is not the end of the one that computes.
            found = await asyncio.shield(running)
            if isinstance(found, StoredResponse):
                return found, True
            if found is not None:
                raise type(found)(found.message, retry_after=found.retry_after)
        ended: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._running[key] = ended
        result: _Result = None
        try:
            known = await self._store.read(lambda c: find(c, self._name, key))
            if known is None:
                made = await compute(question, deadline)
                account = accounts.current()
                result = await self._store.write(lambda c: put(c, self._name, key, made, account))
            else:
                result = known
        except (ModelUnavailable, ModelFault) as error:
            result = error
            raise
        finally:
            del self._running[key]
            ended.set_result(result)
        return result, known is not None

    async def _say(self, question: _Question, deadline: float) -> StoredResponse:
        completion = await self._complete(question.request, question.purpose, deadline)
        text = without_reasoning(completion.text).strip()
        if not text:
            raise ModelMalformed(f"The {self._name} model gave an empty answer.")
        return _stored(self._storable(text), completion.usage)

    async def _fit(
        self, question: _Question, deadline: float, structure: Structure[Any], repairs: int
    ) -> StoredResponse:
        asked = question.request
        form = structure.response_format(re.sub(r"[^A-Za-z0-9_-]", "_", question.purpose)[:64])
        messages, usage = asked.messages, Usage()
        for number in range(repairs + 1):
            request = Request(
                messages, asked.max_tokens, asked.temperature, asked.seed, asked.stop, form
            )
            completion = await self._complete(request, question.purpose, deadline)
            usage += completion.usage
            text = _spoken(completion.text)
            try:
                structure.parse(text)
                return _stored(self._storable(text), usage)
            except UnfitAnswerError as error:
                unfit = error
            if number < repairs:
                self._metrics.model_repairs.labels(self._name, question.purpose).inc()
            messages = (
                *asked.messages,
                Message("assistant", escaped(text[:_SHOWN_TO_REPAIR]) or "(nothing)"),
                Message("user", render("synthagent.llm", "repair", problems=unfit.problems)),
            )
        raise ModelMalformed(f"The {self._name} model's answer does not fit: {unfit}.")

    async def _complete(self, request: Request, purpose: str, deadline: float) -> Completion:
        """A finished text. Counts what it cost, whatever becomes of it."""
        completion = await self._connection.complete(request, deadline)
        usage = completion.usage
        count(usage)
        labels = (self._name, purpose)
        self._metrics.model_tokens.labels(*labels, "prompt").inc(usage.prompt_tokens)
        self._metrics.model_tokens.labels(*labels, "completion").inc(usage.completion_tokens)
        self._metrics.model_cost.labels(*labels).inc(usage.cost)
        reason = completion.finish_reason
        if reason == "content_filter" or completion.refusal:
            why = f": {completion.refusal}" if completion.refusal else " by its content filter"
            raise ModelRefused(f"The {self._name} model refused to answer{why}.")
        if reason == "length":
            raise ModelTruncated(
                f"The {self._name} model's answer did not end within {request.max_tokens} tokens; "
                f"raise SYNTHAGENT_{self._name.upper()}__MAX_TOKENS or ask for less."
            )
        if reason != "stop":
            raise ModelMalformed(f"The {self._name} model's answer ended as {reason[:40]!r}.")
        return completion

    def _storable(self, text: str) -> str:
        """The text, where a database can hold it. Raises ModelMalformed."""
        if "\x00" in text or _encodable(text) != text:
            raise ModelMalformed(
                f"The {self._name} model's answer holds characters that are no text."
            )
        return text


def _spoken(text: str) -> str:
    """A JSON answer without the reasoning before it; a tag inside of JSON is part of a string."""
    stripped = text.strip()
    return stripped if stripped.startswith(("{", "[")) else without_reasoning(stripped).strip()


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no encoding can hold, replaced."""
    return text.encode("utf-8", "replace").decode()


def _stored(text: str, usage: Usage) -> StoredResponse:
    return StoredResponse(
        text, usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.cost, usage.seconds
    )


def _usage(stored: StoredResponse) -> Usage:
    return Usage(
        stored.calls,
        stored.prompt_tokens,
        stored.completion_tokens,
        stored.cost,
        stored.seconds,
    )
