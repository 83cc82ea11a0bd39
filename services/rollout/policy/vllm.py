"""The HTTP interface of a vLLM server, as far as a policy needs it (vLLM 0.32).

    GET  /v1/models                what is served, adapters too, and how long a sequence may be
    GET  /server_info              how it is served
    POST /inference/v1/generate    token ids in, token ids out, with the weights that sampled each
    GET  /weight_info, /is_paused  label of the weights; whether turns are held back
    POST /pause, /resume           hold turns back: running ones end first
    POST /collective_rpc           reload weights from a folder
    POST /update_weight_version    label them
    POST /v1/load_lora_adapter     and /v1/unload_lora_adapter: adapters by name
    POST /init_weight_transfer_engine, /start_weight_update, /update_weights,
         /finish_weight_update, /shutdown_weight_transfer_engine: weights from the trainer's GPU

Owns what the answers mean, no decisions; vllm_http.py owns the connections and the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from services.rollout.policy.generation import PolicyFault
from services.rollout.policy.transfer import Transfer
from services.rollout.policy.vllm_http import Answer, UnknownModel, VllmConnection
from synthagent.errors import ModelUnavailable, PreconditionFailed

INITIAL_LABEL = "default"
"""What a server that was just started calls its weights."""

_FLOOR = -9999.0
"""vLLM writes this for log-probabilities that are no number or minus infinity."""

_ROUNDING = 1e-5
"""How far above 0 rounding may put the log-probability of a sure token."""


class _Served(Answer):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(Answer):
    data: list[_Served]


class _ModelConfig(Answer):
    logprobs_mode: str


class _VllmConfig(Answer):
    model_config_: _ModelConfig = Field(alias="model_config")
    device_config: dict[str, Any]


class _ServerInfo(Answer):
    vllm_config: _VllmConfig


class _WeightInfo(Answer):
    weight_version: str


class _Paused(Answer):
    is_paused: bool


class _WorldSize(Answer):
    world_size: int


class _TokenLogprob(Answer):
    token_id: int
    logprob: float


class _Logprobs(Answer):
    content: list[_TokenLogprob]


class _WeightSpan(Answer):
    version: str


class _Choice(Answer):
    finish_reason: str
    token_ids: list[int]
    logprobs: _Logprobs
    weight_versions: list[_WeightSpan] = Field(min_length=1)


class _Generated(Answer):
    choices: list[_Choice] = Field(min_length=1, max_length=1)


@dataclass(frozen=True)
class Serving:
    """How a server serves a model. `root` is the folder that it was started with."""

    root: Path
    max_model_len: int
    logprobs_mode: str
    device: str


@dataclass(frozen=True)
class TurnRequest:
    """What to sample.

    `salt` keeps the prefix cache of one policy version from another's. `adapter` is the name of the
    adapter that samples; empty: the model without one.
    """

    token_ids: list[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    stop_strings: list[str]
    salt: str = ""
    adapter: str = ""


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
        self._http = VllmConnection(base_url)
        self._model = model
        self._turn_seconds = turn_seconds

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self._http.close()

    async def serving(self) -> Serving:
        """How the model is served."""
        listed = await self._http.ask(_Models, "GET", "/v1/models")
        served = next((entry for entry in listed.data if entry.id == self._model), None)
        if served is None:
            names = ", ".join(entry.id for entry in listed.data)
            raise PreconditionFailed(
                f"The model server at {self._http.url} serves {names}, not {self._model!r}; set "
                "SYNTHAGENT_POLICY_SERVED_MODEL to one of them."
            )
        info = await self._http.ask(
            _ServerInfo, "GET", "/server_info", params={"config_format": "json"}
        )
        return Serving(
            root=Path(served.root or ""),
            max_model_len=served.max_model_len or 0,
            logprobs_mode=info.vllm_config.model_config_.logprobs_mode,
            device=str(info.vllm_config.device_config.get("device", "")),
        )

    async def label(self) -> str:
        """Label of the weights that sample now."""
        return (await self._http.ask(_WeightInfo, "GET", "/weight_info")).weight_version

    async def paused(self) -> bool:
        """Whether turns are held back."""
        return (await self._http.ask(_Paused, "GET", "/is_paused")).is_paused

    async def sample(self, turn: TurnRequest) -> SampledTurn:
        """Samples one turn. Raises PolicyFault also where the server refuses the request.

        Raises ModelUnavailable also where it has no adapter of the turn's name.
        """
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
        body = {
            "model": turn.adapter or self._model,
            "token_ids": turn.token_ids,
            "cache_salt": turn.salt or None,
            "sampling_params": sampling,
        }
        try:
            generated = await self._http.ask(
                _Generated, "POST", "/inference/v1/generate", body=body, seconds=self._turn_seconds
            )
        except UnknownModel as error:
            if turn.adapter:  # it was there: the server is another one than it was
                raise ModelUnavailable(error.message) from error
            raise
        return _sampled(generated.choices[0])

    async def replace_weights(
        self, folder: Path, label: str, transfer: Transfer | None = None
    ) -> None:
        """Lets running turns end, puts other weights in place and labels them.

        They are those of a folder, or, where a `transfer` is given, those that the trainer sends.
        In between, the weights have a label that is nobody's: whoever finds it after a crash knows
        that they must be loaded anew. A failure leaves turns held back, under that label. Turns are
        not frozen instead (mode "keep"): the keys and values of their beginning would be of other
        weights than their end, and their log-probabilities those of no policy.
        """
        if transfer is not None:  # first, because a server that cannot says so here
            await self._weights("/init_weight_transfer_engine", {"init_info": transfer.init_info})
        await self._http.tell("/pause", params={"mode": "wait"}, seconds=self._turn_seconds)
        await self._http.tell("/update_weight_version", body={"new_version": f"loading {label}"})
        if transfer is None:
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            await self._weights("/collective_rpc", reload)
            await self._http.tell("/update_weight_version", body={"new_version": label})
        else:
            await self._weights("/start_weight_update")
            await self._weights("/update_weights", {"update_info": transfer.update_info})
            await self._weights("/finish_weight_update", {"weight_version": label})
        await self.resume()
        if transfer is not None:
            await self._weights("/shutdown_weight_transfer_engine")

    async def workers(self) -> int:
        """Processes that hold the model, each on a GPU of its own."""
        return (await self._http.ask(_WorldSize, "GET", "/get_world_size")).world_size

    async def adapters(self) -> list[str]:
        """Names of the adapters that can sample."""
        listed = await self._http.ask(_Models, "GET", "/v1/models")
        return [entry.id for entry in listed.data if entry.parent]

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Loads an adapter under a new name; turns that run are not disturbed."""
        body = {"lora_name": name, "lora_path": str(folder)}
        await self._weights("/v1/load_lora_adapter", body)

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter, where it is there. Turns that sample with it end as they began."""
        body = {"lora_name": name}
        await self._http.tell("/v1/unload_lora_adapter", body=body, accept={404})

    async def resume(self) -> None:
        """Lets turns begin again."""
        await self._http.tell("/resume")

    async def _weights(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """A request that moves weights, and takes as long as a turn may."""
        await self._http.tell(path, body=body, seconds=self._turn_seconds)


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
