"""Requests to a vLLM server, and what becomes of each failure.

Owns the connections. Every error is one of three kinds: ModelUnavailable (waiting may help:
unreachable, timeout, 5xx), PreconditionFailed (the server was started otherwise than is needed) and
PolicyFault (an answer that makes no sense).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from services.rollout.policy.generation import PolicyFault
from synthagent.errors import ModelUnavailable, PreconditionFailed

_ADVICE = "start it with `make model-server`, or as docs/decisions/0009-model-server.md says"
_CONTROL_SECONDS = 30.0
"""For requests that touch no weights. They wait for a step of the engine at most."""

_ABSENT = {401, 403, 404, 405}


class Answer(BaseModel):
    """Base of the answers that are read."""

    model_config = ConfigDict(frozen=True)


class UnknownModel(PreconditionFailed):
    """The server has no model, or adapter, of the name that was asked for."""


_A = TypeVar("_A", bound=Answer)


class VllmConnection:
    """Connections to one server."""

    def __init__(self, base_url: str) -> None:
        """`base_url` with or without its version path."""
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            timeout=httpx2.Timeout(_CONTROL_SECONDS, pool=None),
            # Who asks bounds the turns in flight; a request that waits here would look slow.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self._http.aclose()

    async def tell(
        self,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        seconds: float = _CONTROL_SECONDS,
        accept: Collection[int] = (),
    ) -> None:
        """Posts. A status in `accept` is as good as success."""
        await self._send("POST", path, body=body, params=params, seconds=seconds, accept=accept)

    async def ask(
        self,
        kind: type[_A],
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        seconds: float = _CONTROL_SECONDS,
    ) -> _A:
        """Asks, and reads the answer as `kind`."""
        content = await self._send(method, path, body=body, params=params, seconds=seconds)
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise PolicyFault(
                f"the model server's answer to {path} makes no sense: {place}: {first['msg']}"
            ) from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None,
        params: Mapping[str, str] | None,
        seconds: float,
        accept: Collection[int] = (),
    ) -> bytes:
        try:
            response = await self._http.request(
                method,
                path,
                json=body,
                params=params,
                timeout=httpx2.Timeout(seconds, connect=_CONTROL_SECONDS, pool=None),
            )
        except httpx2.TimeoutException as error:
            raise ModelUnavailable(
                f"The model server at {self.url} gave no answer to {path} within {seconds:.0f} s."
            ) from error
        except httpx2.TransportError as error:
            raise ModelUnavailable(
                f"The model server at {self.url} cannot be reached ({_told(error)}); {_ADVICE}."
            ) from error
        if response.is_success or response.status_code in accept:
            return response.content
        reason = _reason(response)
        if _is_of_a_model(response):
            raise UnknownModel(f"The model server at {self.url} refuses {path}: {reason}")
        if response.status_code in _ABSENT:
            raise PreconditionFailed(
                f"The model server at {self.url} does not give {path} "
                f"({response.status_code}: {reason}); {_ADVICE}."
            )
        if response.is_client_error and response.status_code not in (408, 429):
            raise PolicyFault(f"the model server refuses {path}: {reason}")
        raise ModelUnavailable(
            f"The model server at {self.url} failed at {path} ({response.status_code}: {reason})."
        )


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _reason(response: httpx2.Response) -> str:
    """What a server says of an error, as far as it fits a sentence."""
    try:
        body = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = response.text
    return str(text)[:300] or response.reason_phrase


def _is_of_a_model(response: httpx2.Response) -> bool:
    """Whether a server says that it has no model, or adapter, of the name asked for."""
    try:
        body = response.json()
    except ValueError:
        return False
    error = body.get("error") if isinstance(body, dict) else None
    return response.status_code == 404 and isinstance(error, dict) and error.get("param") == "model"
