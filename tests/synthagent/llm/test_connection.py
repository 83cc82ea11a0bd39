"""What a server can do to us: each ends in a typed error within its deadline, never in a value."""

import asyncio
import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from synthagent import deadlines
from synthagent.errors import (
    ModelFault,
    ModelMalformed,
    ModelRefused,
    ModelTruncated,
    ModelUnavailable,
    PreconditionFailed,
    SynthAgentError,
)
from synthagent.llm import Message
from synthagent.metrics import ServerMetrics
from tests.synthagent.llm.conftest import OpenModel
from tests.synthagent.llm.server import (
    Act,
    completion,
    cuts,
    endless,
    fails,
    free_port,
    hangs,
    raw,
    resets,
    response,
    says,
    serving,
    slowly,
)

ASKED = [Message("user", "Is the lamp lit?")]


def body(value: object) -> Act:
    return raw(response(200, json.dumps(value).encode()))


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        pytest.param(fails(500, "out of memory"), ModelUnavailable, "500: out of memory", id="500"),
        pytest.param(fails(503), ModelUnavailable, "answered 503", id="503"),
        pytest.param(fails(429), ModelUnavailable, "answered 429", id="429"),
        pytest.param(fails(408), ModelUnavailable, "answered 408", id="408"),
        pytest.param(fails(400, "prompt too long"), ModelFault, "prompt too long", id="400"),
        pytest.param(fails(401), PreconditionFailed, "check SYNTHAGENT_JUDGE__API_KEY", id="401"),
        pytest.param(fails(403), PreconditionFailed, "check SYNTHAGENT_JUDGE__API_KEY", id="403"),
        pytest.param(fails(404), PreconditionFailed, "check SYNTHAGENT_JUDGE__MODEL", id="404"),
        pytest.param(fails(302, Location="/v2"), ModelFault, "answered 302", id="redirect"),
        pytest.param(resets, ModelUnavailable, "broke the connection off", id="reset"),
        pytest.param(cuts, ModelUnavailable, "broke the connection off", id="cut"),
        pytest.param(raw(b"hello\r\n\r\n"), ModelUnavailable, "broke the connection", id="no-http"),
        pytest.param(endless(), ModelTruncated, "more than 327680 bytes", id="endless"),
        pytest.param(
            says("x" * 400_000), ModelTruncated, "more than 327680 bytes", id="huge answer"
        ),
        pytest.param(raw(response(500, b"x" * 400_000)), ModelTruncated, "bytes", id="huge error"),
        pytest.param(
            raw(response(200, b"<html>Sign in</html>", "text/html")),
            ModelMalformed,
            "text/html",
            id="html",
        ),
        pytest.param(
            raw(response(200, gzip.compress(b" " * 10**8), Content_Encoding="gzip")),
            ModelMalformed,
            "compressed",
            id="gzip bomb",
        ),
        pytest.param(body({"choices": []}), ModelMalformed, "no chat completion", id="no choice"),
        pytest.param(body([1, 2]), ModelMalformed, "no chat completion", id="list"),
        pytest.param(
            raw(response(200, b'{"choices": [')), ModelMalformed, "no chat completion", id="half"
        ),
        pytest.param(
            raw(response(200, b"[" * 50_000)), ModelMalformed, "no chat completion", id="deep"
        ),
        pytest.param(says(""), ModelMalformed, "empty", id="empty"),
        pytest.param(says(None), ModelMalformed, "empty", id="null"),
        pytest.param(says("<think>The lamp, it"), ModelMalformed, "empty", id="thought only"),
        pytest.param(says("Yes\x00"), ModelMalformed, "no text", id="NUL"),
        pytest.param(says("Ye", finish_reason="length"), ModelTruncated, "1024", id="length"),
        pytest.param(says("", finish_reason="content_filter"), ModelRefused, "filter", id="filter"),
        pytest.param(says(None, refusal="I will not."), ModelRefused, "I will not", id="refusal"),
        pytest.param(says("Yes", finish_reason="tool_calls"), ModelMalformed, "tool_", id="tools"),
        pytest.param(says("Ye", finish_reason="abort"), ModelUnavailable, "broke off", id="abort"),
    ],
)
async def test_what_a_server_does_wrong_is_a_typed_error(
    act: Act, error: type[SynthAgentError], text: str, open_model: OpenModel
) -> None:
    async with serving(act) as server:
        model = open_model(server.base_url)
        started = time.monotonic()
        with pytest.raises(error, match=text) as caught:
            await model.text(ASKED, key="k", purpose="p")
        assert type(caught.value) is error
        assert time.monotonic() - started < 3
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(hangs, id="hangs"),
        pytest.param(endless(b" ", pause=0.05), id="trickles"),
        pytest.param(slowly(30, says("Yes")), id="slow"),
    ],
)
async def test_a_server_that_never_ends_is_given_up_at_the_deadline(
    act: Act, open_model: OpenModel, metrics: ServerMetrics
) -> None:
    async with serving(act) as server:
        model = open_model(server.base_url, timeout_seconds=0.5, attempts=4)
        started = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"within 0\.5 seconds|in time"):
            await model.text(ASKED, key="k", purpose="p")
        assert 0.45 < time.monotonic() - started < 1.5
    sample = metrics.registry.get_sample_value
    assert sample("synthagent_model_requests_total", {"role": "judge", "status": "timeout"}) == 1
    assert sample("synthagent_model_requests_in_flight", {"role": "judge"}) == 0


async def test_a_nearer_deadline_is_inherited(open_model: OpenModel) -> None:
    async with serving(hangs) as server:
        model = open_model(server.base_url, timeout_seconds=60)
        deadlines.begin(0.3)
        started = time.monotonic()
        with pytest.raises(ModelUnavailable):
            await model.text(ASKED, key="k", purpose="p")
        assert time.monotonic() - started < 1.5


async def test_what_a_server_says_can_be_sent_and_stored(open_model: OpenModel) -> None:
    async with serving(fails(400, "bad\x00 \ud800\x1b[31m input")) as server:
        with pytest.raises(ModelFault, match=r"bad \[31m input") as caught:
            await open_model(server.base_url).text(ASKED, key="k", purpose="p")
    assert caught.value.message.isprintable()


async def test_nobody_listens(open_model: OpenModel) -> None:
    model = open_model(f"http://127.0.0.1:{free_port()}/v1", attempts=2)
    started = time.monotonic()
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        await model.text(ASKED, key="k", purpose="p")
    assert 0.25 < time.monotonic() - started < 3


async def test_at_the_deadline_the_reason_is_the_servers(open_model: OpenModel) -> None:
    async with serving(fails(500, "no memory")) as server:
        model = open_model(server.base_url, timeout_seconds=0.6, attempts=20)
        with pytest.raises(ModelUnavailable, match="no memory"):
            await model.text(ASKED, key="k", purpose="p")


@pytest.mark.parametrize("fault", [fails(500), fails(429), fails(408), resets, cuts])
async def test_what_may_pass_is_tried_again(fault: Act, open_model: OpenModel) -> None:
    async with serving(fault, says("Yes")) as server:
        answer = await open_model(server.base_url, attempts=3).text(ASKED, key="k", purpose="p")
        assert answer.value == "Yes"
        assert len(server.requests) == 2


async def test_what_will_not_pass_is_not_tried_again(open_model: OpenModel) -> None:
    async with serving(fails(400), says("Yes")) as server:
        with pytest.raises(ModelFault):
            await open_model(server.base_url, attempts=3).text(ASKED, key="k", purpose="p")
        assert len(server.requests) == 1


async def test_the_server_says_when_to_come_back(open_model: OpenModel) -> None:
    async with serving(fails(429, Retry_After="1"), says("Yes")) as server:
        started = time.monotonic()
        answer = await open_model(server.base_url, attempts=2).text(ASKED, key="k", purpose="p")
        assert answer.value == "Yes"
        assert 1.0 <= time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    "later",
    ["60", format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)],
    ids=["seconds", "date"],  # a date in a name would give every process another test
)
async def test_no_waiting_for_a_time_beyond_the_deadline(later: str, open_model: OpenModel) -> None:
    async with serving(fails(429, Retry_After=later)) as server:
        started = time.monotonic()
        with pytest.raises(ModelUnavailable) as caught:
            await open_model(server.base_url, attempts=5).text(ASKED, key="k", purpose="p")
        assert time.monotonic() - started < 1.5
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > timedelta(seconds=50)


async def test_every_attempt_reads_the_key_anew(open_model: OpenModel, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("first\n")
    async with serving(says("Yes")) as server:
        model = open_model(server.base_url, api_key="unused", api_key_file=key_file)
        await model.text(ASKED, key="a", purpose="p")
        key_file.write_text("second")
        await model.text(ASKED, key="b", purpose="p")
        keys = [request.headers["authorization"] for request in server.requests]
        assert keys == ["Bearer first", "Bearer second"]
        key_file.unlink()
        with pytest.raises(PreconditionFailed, match=f"cannot be read from {key_file}"):
            await model.text(ASKED, key="c", purpose="p")


async def test_without_a_key_none_is_sent_whatever_the_environment_holds(
    open_model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-somebody-else")
    async with serving(says("Yes")) as server:
        await open_model(server.base_url).text(ASKED, key="k", purpose="p")
        assert "authorization" not in server.requests[0].headers
        assert "of-somebody-else" not in str(server.requests[0])


async def test_what_is_asked_reaches_the_server(open_model: OpenModel) -> None:
    async with serving(says("Yes")) as server:
        model = open_model(server.base_url, max_tokens=100)
        await model.text(
            [Message("system", "Be brief."), *ASKED],
            key="k", purpose="p", temperature=0.5, max_tokens=20, seed=4, stop=["</a>"],
        )  # fmt: skip
        sent = server.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is the lamp lit?"},
        ],
        "temperature": 0.5,
        "max_completion_tokens": 20,
        "seed": 4,
        "stop": ["</a>"],
    }


async def test_the_settings_win_over_what_is_asked(open_model: OpenModel) -> None:
    async with serving(says("Yes")) as server:
        model = open_model(server.base_url, max_tokens=100, temperature=0.25)
        await model.text(ASKED, key="k", purpose="p", temperature=0.9, max_tokens=1000)
        assert server.requests[0].body["temperature"] == 0.25
        assert server.requests[0].body["max_completion_tokens"] == 100


async def test_the_server_sees_no_more_than_the_limit(open_model: OpenModel) -> None:
    async with serving(slowly(0.02, says("Yes"))) as server:
        model = open_model(server.base_url, max_concurrency=3)
        calls = (model.text(ASKED, key=str(i), purpose="p") for i in range(20))
        answers = await asyncio.gather(*calls)
        assert [answer.value for answer in answers] == ["Yes"] * 20
        assert server.most_in_flight == 3


async def test_a_server_that_pushes_back_gets_less(
    open_model: OpenModel, metrics: ServerMetrics
) -> None:
    async def bears_two(received: object, writer: asyncio.StreamWriter) -> None:
        crowded = server.in_flight > 2
        await asyncio.sleep(0.02)
        payload = json.dumps(completion("Yes")).encode()
        writer.write(response(429, b"{}") if crowded else response(200, payload))
        await writer.drain()

    async with serving(bears_two) as server:
        model = open_model(server.base_url, max_concurrency=16, attempts=20)
        calls = (model.text(ASKED, key=str(i), purpose="p") for i in range(60))
        await asyncio.gather(*calls)
        limit = metrics.registry.get_sample_value(
            "synthagent_model_concurrency_limit", {"role": "judge"}
        )
        assert limit is not None
        assert limit <= 4
        assert server.most_in_flight <= 16
