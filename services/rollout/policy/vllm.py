"""The HTTP interface of a vLLM server, as far as a policy needs it (vLLM 0.32).

    GET  /v1/models                what is served, and how long a sequence may be
    GET  /server_info              how it is served
    POST /inference/v1/generate    token ids in, token ids out, with the weights that sampled each
    GET  /weight_info, /is_paused  label of the weights; whether turns are held back
    POST /pause, /resume           hold turns back: running ones end first
    POST /collective_rpc           reload weights from a folder
    POST /update_weight_version    label them

Owns connections and what the answers mean, no decisions. Every error is one of three kinds:
ModelUnavailable (waiting may help: unreachable, timeout, 5xx), PreconditionFailed (the server was
started otherwise than is needed) and PolicyFault (an answer that makes no sense).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.rollout.policy.generation import PolicyFault
from synthagent.errors import ModelUnavailable, PreconditionFailed

INITIAL_LABEL = "default"
"""What a server that was just started calls its weights."""

_ADVICE = "start it with `make model-server`, or as docs/decisions/0009-model-server.md says"
_CONTROL_SECONDS = 30.0
"""For requests that touch no weights. They wait for a step of the engine at most."""

_FLOOR = -9999.0
"""vLLM writes this for log-probabilities that are no number or minus infinity."""

_ROUNDING = 1e-5
"""How far above 0 rounding may put the log-probability of a sure token."""

_ABSENT = {401, 403, 404, 405}


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Served(_Answer):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(_Answer):
    data: list[_Served]


class _ModelConfig(_Answer):
    logprobs_mode: str


class _VllmConfig(_Answer):
    model_config_: _ModelConfig = Field(alias="model_config")
    device_config: dict[str, Any]


class _ServerInfo(_Answer):
    vllm_config: _VllmConfig


class _WeightInfo(_Answer):
    weight_version: str


class _Paused(_Answer):
    is_paused: bool


class _TokenLogprob(_Answer):
    token_id: int
    logprob: float


class _Logprobs(_Answer):
    content: list[_TokenLogprob]


class _WeightSpan(_Answer):
    version: str


class _Choice(_Answer):
    finish_reason: str
    token_ids: list[int]
    logprobs: _Logprobs
    weight_versions: list[_WeightSpan] = Field(min_length=1)


class _Generated(_Answer):
    choices: list[_Choice] = Field(min_length=1, max_length=1)


_A = TypeVar("_A", bound=_Answer)


@dataclass(frozen=True)
class Serving:
    """How a server serves a model. `root` is the folder that it was started with."""

    root: Path
    max_model_len: int
    logprobs_mode: str
    device: str


@dataclass(frozen=True)
class TurnRequest:
    """What to sample. `salt` keeps the prefix cache of one policy version from another's."""

    token_ids: list[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    stop_strings: list[str]
    salt: str = ""


@dataclass(frozen=True)
class SampledTurn:
    """What was sampled, and the labels of the weights that did. Log-probabilities in nats."""

    token_ids: list[int]
    logprobs: list[float]
    labels: frozenset[str]
    aborted: bool


class VllmServer:
    """One server and the model that it serves under `model`."""

    def __init__(self, base_url: str, model: str, *, turn_seconds: float) -> None:
        """`base_url` with or without its version path; `turn_seconds` bounds one request."""
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._turn_seconds = turn_seconds
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            timeout=httpx2.Timeout(_CONTROL_SECONDS, pool=None),
            # Who asks bounds the turns in flight; a request that waits here would look slow.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self._http.aclose()

    async def serving(self) -> Serving:
        """How the model is served."""
        listed = await self._ask(_Models, "GET", "/v1/models")
        served = next((entry for entry in listed.data if entry.id == self._model), None)
        if served is None:
            names = ", ".join(entry.id for entry in listed.data)
            raise PreconditionFailed(
                f"The model server at {self.url} serves {names}, not {self._model!r}; set "
                "SYNTHAGENT_POLICY_SERVED_MODEL to one of them."
            )
        info = await self._ask(_ServerInfo, "GET", "/server_info", params={"config_format": "json"})
        return Serving(
            root=Path(served.root or ""),
            max_model_len=served.max_model_len or 0,
            logprobs_mode=info.vllm_config.model_config_.logprobs_mode,
            device=str(info.vllm_config.device_config.get("device", "")),
        )

    async def label(self) -> str:
        """Label of the weights that sample now."""
        return (await self._ask(_WeightInfo, "GET", "/weight_info")).weight_version

    async def paused(self) -> bool:
        """Whether turns are held back."""
        return (await self._ask(_Paused, "GET", "/is_paused")).is_paused

    async def sample(self, turn: TurnRequest) -> SampledTurn:
        """Samples one turn. Raises PolicyFault also where the server refuses the request."""
        sampling = {
            "temperature": turn.temperature,
            "top_p": turn.top_p,
            # Said, because a server may have other defaults.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "max_tokens": turn.max_tokens,
            "seed": turn.seed,
            "logprobs": 0,
            "stop": turn.stop_strings,
            "stop_token_ids": turn.stop_token_ids,
            "ignore_eos": True,  # stop_token_ids say what ends a turn
        }
        generated = await self._ask(
            _Generated,
            "POST",
            "/inference/v1/generate",
            body={
                "model": self._model,
                "token_ids": turn.token_ids,
                "cache_salt": turn.salt or None,
                "sampling_params": sampling,
            },
            seconds=self._turn_seconds,
        )
        return _sampled(generated.choices[0])

    async def replace_weights(self, folder: Path, label: str) -> None:
        """Lets running turns end, loads the weights of a folder and labels them.

        In between, the weights have a label that is nobody's: whoever finds it after a crash knows
        that they must be loaded anew. A failure leaves turns held back, under that label.
        """
        await self._tell("/pause", params={"mode": "wait"}, seconds=self._turn_seconds)
        await self._tell("/update_weight_version", body={"new_version": f"loading {label}"})
        await self._tell(
            "/collective_rpc",
            body={"method": "reload_weights", "kwargs": {"weights_path": str(folder)}},
            seconds=self._turn_seconds,
        )
        await self._tell("/update_weight_version", body={"new_version": label})
        await self.resume()

    async def resume(self) -> None:
        """Lets turns begin again."""
        await self._tell("/resume")

    async def _tell(
        self,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        seconds: float = _CONTROL_SECONDS,
    ) -> None:
        await self._send("POST", path, body=body, params=params, seconds=seconds)

    async def _ask(
        self,
        kind: type[_A],
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        seconds: float = _CONTROL_SECONDS,
    ) -> _A:
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
        if response.is_success:
            return response.content
        reason = _reason(response)
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


def _sampled(choice: _Choice) -> SampledTurn:
    told = [entry.token_id for entry in choice.logprobs.content]
    if told != choice.token_ids:
        raise PolicyFault("the model server's log-probabilities are not those of its tokens")
    logprobs = [entry.logprob for entry in choice.logprobs.content]
    if not all(_FLOOR < value <= _ROUNDING for value in logprobs):
        raise PolicyFault("the policy's log-probabilities are not finite")
    return SampledTurn(
        token_ids=choice.token_ids,
        logprobs=[min(value, 0.0) for value in logprobs],
        labels=frozenset(span.version for span in choice.weight_versions),
        aborted=choice.finish_reason not in ("stop", "length"),
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
