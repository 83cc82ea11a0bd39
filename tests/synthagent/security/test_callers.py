"""Who is let in: by token, by certificate, and what a callers file may hold."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from synthagent import errors
from synthagent.api.v1 import judge_pb2, judge_pb2_grpc
from synthagent.client import SynthAgentClient
from synthagent.metrics import ServerMetrics
from synthagent.security.access import Role
from synthagent.security.callers import CallerLimits, Callers
from synthagent.security.channels import ChannelSecurity
from synthagent.security.gate import Gate
from synthagent.security.settings import SecuritySettings
from synthagent.security.watched import UnusableFile
from synthagent.server import running
from synthagent.settings import Settings
from tests.contracts.conftest import Probe
from tests.synthagent.security.conftest import Issue, People

HASH = "0" * 64


def callers(text: str, folder: Path) -> Callers:
    path = folder / "callers.toml"
    path.write_text(text)
    return Callers(path, CallerLimits(streams=9, sessions=8))


def entry(**fields: str) -> str:
    return "[[caller]]\n" + "".join(f'{name} = "{value}"\n' for name, value in fields.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "caller: Field required"),
        ("caller = 3", "valid list"),
        ("[[caller]]\nname = 'a", "is no TOML"),
        ("\udcff", "is no TOML: it is not UTF-8"),
        (entry(name="a", role="king", token_sha256=HASH), r"caller.0.role: Input should be"),
        (entry(name="a b", role="agent", token_sha256=HASH), r"caller.0.name"),
        (entry(name="a", role="agent", token_sha256="secret-token"), r"caller.0.token_sha256"),
        (entry(name="a", role="agent", token="secret-token"), r"caller.0.token: Extra"),
        (entry(name="a", role="agent"), "either token_sha256 or certificate"),
        (entry(name="a", role="agent", token_sha256=HASH, certificate="c"), "either"),
        (entry(name="a", role="agent", token_sha256=HASH) * 2, "known by what another one is"),
        (
            entry(name="a", role="agent", token_sha256=HASH)
            + entry(name="a", role="operator", token_sha256="1" * 64),
            "two roles",
        ),
        (entry(name="a", role="agent", token_sha256=HASH) + "\n[caller.limits]\nx = 1", "Extra"),
        (
            entry(name="a", role="agent", token_sha256=HASH) + "\n[caller.limits]\nstreams = 0",
            "greater than or equal to 1",
        ),
    ],
)
def test_a_file_that_does_not_fit_says_where_and_shows_no_secret(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "callers.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnusableFile, match=said) as caught:
        Callers(path, CallerLimits())
    assert str(path) in caught.value.message
    assert "secret-token" not in caught.value.message


def test_a_token_decides_where_one_is_shown(people: People) -> None:
    people.add("olga", "operator")
    people.add("olga", "operator", token="her next token")
    people.add("agent/7", "agent", "[caller.limits]\nstreams = 1")
    with people.path.open("a") as stream:
        stream.write(entry(name="rollout", role="service", certificate="synthagent-rollout"))
    known = Callers(people.path, CallerLimits(streams=9, sessions=8))
    certificate = {"x509_subject_alternative_name": [b"other", b"synthagent-rollout"]}

    caller = known.identify(people.metadata("agent/7"), certificate)
    assert (caller.name, caller.role) == ("agent/7", Role.AGENT)
    assert caller.limits == CallerLimits(streams=1, sessions=8)
    assert known.identify((), certificate).role is Role.SERVICE
    by_name = known.identify((("x", "y"),), {"x509_common_name": [b"synthagent-rollout"]})
    assert by_name.limits == CallerLimits(streams=9, sessions=8)
    for token in ("token-of-olga", "her next token"):
        for written in (f"Bearer {token}", f"bearer  {token} ", f"Bearer {token}".encode()):
            assert known.identify((("authorization", written),), {}).name == "olga"
    for wrong in ("Bearer x", "token-of-olga", "Basic token-of-olga", "", b"Bearer \xff"):
        with pytest.raises(errors.Unauthenticated, match="token is not known"):
            known.identify((("authorization", wrong),), certificate)
    with pytest.raises(errors.Unauthenticated, match="'stranger' is not known"):
        known.identify((), {"x509_common_name": [b"stranger"]})
    with pytest.raises(errors.Unauthenticated, match="says not who makes it"):
        known.identify((), {})


async def _ask(channel: grpc.aio.Channel) -> None:
    await judge_pb2_grpc.RubricJudgeStub(channel).Judge(judge_pb2.JudgeRequest(), timeout=5)


async def test_certificates_of_listed_callers_open_the_door(
    settings: Settings, issue: Issue, people: People
) -> None:
    """Two certificates of the same authority; only one of them is listed."""
    listed, unlisted = issue("synthagent-rollout"), issue("somebody")
    people.path.write_text(entry(name="rollout", role="service", certificate="synthagent-rollout"))
    people.add("olga", "operator")
    token = people.path.with_name("token")
    token.write_text("token-of-olga\n")
    secured = settings.model_copy(
        update={**issue("server").settings(), "callers_file": people.path}
    )
    async with running(secured, [Probe().register]) as server:
        for security in (listed.security(), unlisted.security(token)):
            async with security.open(server.address) as channel:
                await _ask(channel)
        async with unlisted.security().open(server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await _ask(channel)
            assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
        async with SynthAgentClient(server.address, security=listed.security()) as client:
            with pytest.raises(errors.PermissionDenied, match="'rollout' is service"):
                [run async for run in client.list_runs()]


async def test_callers_and_tokens_are_read_again(
    settings: Settings, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthagent.security.channels._LOOK_SECONDS", 0.0)
    people.add("olga", "operator")
    token = people.path.with_name("token")
    token.write_text("token-of-new\n")
    security = ChannelSecurity(token_file=token)
    guarded = settings.model_copy(update={"callers_file": people.path})
    async with (
        running(guarded, [Probe().register]) as server,
        security.open(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await _ask(channel)
        people.add("new", "operator")
        await _ask(channel)
        people.path.write_text("nonsense [")  # half of an edit: the last good one stays
        await _ask(channel)
        people.path.write_text(entry(name="a", role="agent", token_sha256=HASH))
        with pytest.raises(grpc.aio.AioRpcError):
            await _ask(channel)
        people.add("next", "operator")
        token.write_text("token-of-next\n")
        await _ask(channel)


@pytest.mark.parametrize("content", ["", "two\nlines", "x" * 5000, "ü"])
async def test_a_token_file_without_a_token_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(UnusableFile) as caught:
        ChannelSecurity(token_file=path).open("127.0.0.1:1")
    assert str(path) in caught.value.message
    assert not content or content not in caught.value.message


async def test_an_open_server_that_others_reach_says_so(
    settings: Settings, people: People, capfd: pytest.CaptureFixture[str]
) -> None:
    people.add("olga", "operator")
    for host, listed, warns in (
        ("127.0.0.1", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", people.path, False),
    ):
        changes: dict[str, Any] = {"host": host, "callers_file": listed}
        async with running(settings.model_copy(update=changes), []):
            pass
        output = capfd.readouterr()
        assert ("SYNTHAGENT_CALLERS_FILE" in output.out + output.err) is warns, (host, listed)


@pytest.mark.parametrize(
    ("host", "known", "encrypted", "warned"),
    [
        ("127.0.0.1", False, False, None),
        ("0.0.0.0", False, False, "open to everybody"),
        ("0.0.0.0", True, False, "tokens travel in plain text"),
        ("0.0.0.0", True, True, None),
    ],
)
def test_the_operator_is_told_what_stands_open(
    people: People,
    host: str,
    *,
    known: bool,
    encrypted: bool,
    warned: str | None,
) -> None:
    people.add("a", "viewer")
    given = {"callers_file": people.path} if known else {}
    gate = Gate.of(SecuritySettings.model_validate(given), ServerMetrics())
    with capture_logs() as lines:
        gate.warn_if_open(host, encrypted=encrypted)
    assert len(lines) == (warned is not None)
    assert all(str(warned) in line["event"] for line in lines)
