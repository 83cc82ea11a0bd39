"""Every method of every service, asked by every role, at a real server of all five services.

An empty request is enough: who may not call is refused before it is read, who may is told what is
wrong with it.
"""

import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.__main__ import ServiceName, registers
from synthagent import errors
from synthagent.failures import DETAILS
from synthagent.security.access import METHODS, Role, table
from synthagent.security.callers import token_hash
from synthagent.server import running
from synthagent.settings import load_settings

_FILES = ("task", "tool", "user", "judge", "rollout")
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_DOCUMENT = Path(__file__).parents[2] / "docs/security.md"


def _contract() -> dict[str, MethodDescriptor]:
    """Path of every method of the contract -> what describes it."""
    return {
        f"/{service.full_name}/{method.name}": method
        for file in _FILES
        for service in importlib.import_module(
            f"synthagent.api.v1.{file}_pb2"
        ).DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


CONTRACT = _contract()


def test_the_table_has_every_method_and_no_other() -> None:
    files = {path.stem for path in Path("proto/synthagent/api/v1").glob("*.proto")}
    assert files == {*_FILES, "trajectory"}  # which has no service
    assert set(METHODS) == set(CONTRACT)
    assert all(method.roles for method in METHODS.values())


def test_the_document_shows_the_table() -> None:
    assert table() in _DOCUMENT.read_text()


def test_who_looks_changes_nothing_and_agents_see_no_task() -> None:
    for path, method in METHODS.items():
        if Role.VIEWER in method.roles:
            assert not method.audited, path
        if Role.AGENT in method.roles:
            assert path.split("/")[1].endswith(("ToolMock", "UserSimulator")), path


@dataclass
class Guarded:
    address: str
    channel: grpc.aio.Channel

    async def ask(self, path: str, token: str | None) -> grpc.aio.AioRpcError | None:
        """How an empty request fails."""
        method: Any = CONTRACT[path]
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        kind: Any = {  # their stubs ask for serializers
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, True): self.channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        request: Any = iter([b""]) if method.client_streaming else b""
        call: Any = kind(path)(request, timeout=10, metadata=metadata)
        try:
            if method.server_streaming:
                await call.read()
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error
        finally:
            call.cancel()
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("access")
    (made / "callers.toml").write_text(
        "\n".join(
            f'[[caller]]\nname = "{role}-1"\nrole = "{role}"\ntoken_sha256 = "{token_hash(role)}"'
            for role in Role
        )
    )
    return made


@pytest.fixture
async def guarded(folder: Path) -> AsyncIterator[Guarded]:
    settings = load_settings(
        database_url=f"sqlite:///{folder / 'synthagent.db'}",
        port=0,
        metrics_port=None,
        drain_seconds=0,
        callers_file=folder / "callers.toml",
        audit_file=folder / "audit.jsonl",
    )
    async with (
        running(settings, registers(ServiceName.ALL)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Guarded(server.address, channel)


def _reason(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    trailers: Any = error.trailing_metadata()  # pairs, whatever its stub says
    status = status_pb2.Status.FromString(dict(trailers)[DETAILS])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == errors.DOMAIN
    return info.reason, dict(info.metadata)


@pytest.mark.parametrize("role", Role)
async def test_each_role_may_call_what_the_table_says(role: Role, guarded: Guarded) -> None:
    for path, method in METHODS.items():
        error = await guarded.ask(path, token=role)
        if role in method.roles:
            assert error is None or error.code() not in _REFUSALS, path
        else:
            assert error is not None
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, path
            assert _reason(error) == (
                "PERMISSION_DENIED",
                {"caller": f"{role}-1", "role": str(role)},
            )


@pytest.mark.parametrize("token", [None, "unknown", "operator ", "Operator", ""])
async def test_whom_nobody_knows_may_call_nothing(token: str | None, guarded: Guarded) -> None:
    known = token == "operator "  # blanks around a token do not count
    for path in METHODS:
        error = await guarded.ask(path, token=token)
        if known and Role.OPERATOR in METHODS[path].roles:
            assert error is None or error.code() not in _REFUSALS, path
        elif not known:
            assert error is not None
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, path
            assert _reason(error) == ("UNAUTHENTICATED", {})


async def test_reflection_is_for_known_callers(guarded: Guarded) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    for role in Role:
        call = stub.ServerReflectionInfo(
            iter([request]), metadata=(("authorization", f"Bearer {role}"),)
        )
        async for response in call:
            names = {each.name for each in response.list_services_response.service}
            assert "synthagent.api.v1.Rollout" in names
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in stub.ServerReflectionInfo(iter([request])):
            pass
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
