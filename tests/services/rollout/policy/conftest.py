"""A tiny random Llama model with the real tokenizer's format, the converted default model, and
engines on a stand-in for a vLLM server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from services.rollout.policy.convert import convert
from services.rollout.policy.engine import EngineConfig, PolicyEngine
from services.rollout.policy.remote import RemotePolicyEngine, ServerConfig
from services.rollout.policy.server_weights import PublishedWeights
from synthagent.model_server.folder import lay_out
from tests.services.rollout.policy.vllm_server import VllmStandIn, listening

Connect = Callable[..., Awaitable[RemotePolicyEngine]]

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path, template: str = TEMPLATE) -> None:
    """A byte-level tokenizer without merges: 256 bytes and three control tokens."""
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))


def tiny_model(seed: int = 0, *, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model.train(mode=False)
    return model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """The default model, converted into the user's cache as `make model` does."""
    return convert()


@pytest.fixture
async def engine(tiny_folder: Path) -> AsyncIterator[PolicyEngine]:
    engine = PolicyEngine(
        EngineConfig(
            tiny_folder, threads=1, max_sequences=6, max_sequence_tokens=300, chunk_tokens=16
        )
    )
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def server(tiny_folder: Path, tmp_path: Path) -> AsyncIterator[VllmStandIn]:
    stand_in = VllmStandIn(lay_out(tiny_folder, cache=tmp_path))
    async with listening(stand_in):
        yield stand_in


@pytest.fixture
async def connect(server: VllmStandIn, tiny_folder: Path, tmp_path: Path) -> AsyncIterator[Connect]:
    """Makes engines on that server; `published` are the weights that the database would name."""
    engines: list[RemotePolicyEngine] = []

    async def make(
        published: list[PublishedWeights] | None = None, **changes: object
    ) -> RemotePolicyEngine:
        config = ServerConfig(
            server.base_url,
            "policy",
            tiny_folder,
            max_sequences=3,
            max_sequence_tokens=300,
            turn_seconds=5.0,
            patience_seconds=3.0,
            cache=tmp_path,
        )
        named = published if published is not None else []

        async def latest() -> PublishedWeights | None:
            return named[-1] if named else None

        engine = RemotePolicyEngine(replace(config, **changes), latest)  # type: ignore[arg-type]  # a test's own
        await engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop()


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], PublishedWeights]:
    """Publishes a version: a file of other weights for the tiny model."""

    def write(version: int) -> PublishedWeights:
        path = tmp_path / f"policy-v{version}.safetensors"
        state = tiny_model(version).state_dict()
        save_file({k: v.clone() for k, v in state.items() if k != "lm_head.weight"}, path)
        return PublishedWeights(version, path)

    return write
