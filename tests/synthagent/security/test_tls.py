"""TLS of real servers and clients, and what they do when certificates are replaced."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from synthagent import errors
from synthagent.client import SynthAgentClient
from synthagent.security.certificates import CertificateFiles
from synthagent.security.channels import ChannelSecurity, SecuredChannel
from synthagent.security.watched import UnusableFile
from synthagent.server import running
from synthagent.settings import Settings
from tests.synthagent.security.conftest import Identity, Issue, certificate_of, key_of, write


async def healthy(security: ChannelSecurity, address: str) -> bool:
    """Whether a new connection finds the server serving."""
    async with security.open(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def shown_name(address: str, authority: Path) -> str:
    """The common name of the certificate that a server shows to a new connection."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        certificate: Any = secured.getpeercert()  # its stub knows less of it
    subject = dict(pair for part in certificate["subject"] for pair in part)
    return str(subject["commonName"])


def secured(settings: Settings, server: Identity, **more: object) -> Settings:
    return settings.model_copy(update={**server.settings(), **more})


async def test_mutual_tls_lets_in_only_whom_the_authority_signed(
    settings: Settings, issue: Issue
) -> None:
    server_identity, ours = issue("server"), issue("client")
    stranger = trustme.CA()
    theirs = issue("stranger")
    write(theirs.files, stranger, "stranger")
    theirs.files.authorities.write_bytes(ours.files.authorities.read_bytes())
    no_certificate = ChannelSecurity(CertificateFiles(ours.files.authorities))
    distrusts = ChannelSecurity(CertificateFiles(_file(ours, stranger.cert_pem.bytes())))
    async with running(secured(settings, server_identity), []) as server:
        assert await healthy(ours.security(), server.address)
        for refused in (theirs.security(), no_certificate, ChannelSecurity(), distrusts):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await healthy(refused, server.address)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def _file(identity: Identity, content: bytes) -> Path:
    path = identity.files.authorities.with_name("other.crt")
    path.write_bytes(content)
    return path


async def test_without_mutual_tls_a_caller_needs_no_certificate(
    settings: Settings, issue: Issue
) -> None:
    identity = issue("server")
    trusting = ChannelSecurity(CertificateFiles(identity.files.authorities))
    async with running(secured(settings, identity, tls_mutual=False), []) as server:
        assert await healthy(trusting, server.address)
        named = ChannelSecurity(trusting.certificates, server_name="server")
        assert await healthy(named, server.address)
        misnamed = ChannelSecurity(trusting.certificates, server_name="other.example")
        with pytest.raises(grpc.aio.AioRpcError):
            await healthy(misnamed, server.address)


async def test_services_reach_one_another_over_tls(settings: Settings, issue: Issue) -> None:
    async with running(secured(settings, issue("server")), []) as server:
        with pytest.raises(errors.PreconditionFailed, match="UNIMPLEMENTED"):
            await server.resources.client.get_task("t")


async def test_a_new_connection_sees_a_new_certificate(
    settings: Settings, issue: Issue, authority: trustme.CA
) -> None:
    """Written file by file, as nobody should: between the writes the old pair is shown."""
    identity = issue("first")
    files = identity.files
    ca = files.authorities
    async with running(secured(settings, identity, tls_mutual=False), []) as server:
        assert await asyncio.to_thread(shown_name, server.address, ca) == "first"
        async with identity.security().open(server.address) as kept:
            health = health_pb2_grpc.HealthStub(kept)
            await health.Check(health_pb2.HealthCheckRequest(), timeout=5)

            new = issue("second").files
            certificate_of(files).write_bytes(certificate_of(new).read_bytes())
            assert await asyncio.to_thread(shown_name, server.address, ca) == "first"
            key_of(files).write_bytes(b"")
            assert await asyncio.to_thread(shown_name, server.address, ca) == "first"
            key_of(files).write_bytes(key_of(new).read_bytes()[:100])
            assert await asyncio.to_thread(shown_name, server.address, ca) == "first"
            key_of(files).write_bytes(key_of(new).read_bytes())
            assert await asyncio.to_thread(shown_name, server.address, ca) == "second"

            key_of(files).unlink()
            assert await asyncio.to_thread(shown_name, server.address, ca) == "second"
            await health.Check(health_pb2.HealthCheckRequest(), timeout=5)  # the old connection


async def test_a_mounted_secret_is_replaced_as_kubernetes_does(
    settings: Settings, authority: trustme.CA, tmp_path: Path
) -> None:
    """The files are links through `..data`, which is renamed over."""

    def version(name: str) -> None:
        folder = tmp_path / f"..{name}"
        folder.mkdir()
        write(
            CertificateFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key"),
            authority,
            name,
        )
        link = tmp_path / "..data_tmp"
        link.symlink_to(folder.name)
        link.replace(tmp_path / "..data")

    version("one")
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = CertificateFiles(tmp_path / "ca.crt", tmp_path / "tls.crt", tmp_path / "tls.key")
    async with running(secured(settings, Identity(files), tls_mutual=False), []) as server:
        assert await asyncio.to_thread(shown_name, server.address, tmp_path / "ca.crt") == "one"
        version("two")
        assert await asyncio.to_thread(shown_name, server.address, tmp_path / "ca.crt") == "two"


async def test_a_client_follows_its_files_when_the_authority_changes(
    settings: Settings, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthagent.security.channels._LOOK_SECONDS", 0.0)
    server_identity, ours = issue("server"), issue("client")
    successor = trustme.CA()
    async with running(secured(settings, server_identity), []) as server:
        channel = ours.security().open(server.address)
        assert isinstance(channel, SecuredChannel)
        async with channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            before = channel.current()
            for identity in (server_identity, ours):
                write(identity.files, successor, "successor")
            await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert channel.current() is not before
            assert not watch.done()  # ends on the connection on which it began
            watch.cancel()


@pytest.mark.parametrize("missing", ["tls_ca_file", "tls_certificate_file", "tls_key_file"])
async def test_a_server_does_not_start_on_half_of_its_settings(
    missing: str, settings: Settings, issue: Issue
) -> None:
    with pytest.raises(UnusableFile, match="SYNTHAGENT_TLS"):
        async with running(secured(settings, issue("server"), **{missing: None}), []):
            pass


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tls.key", None, "cannot be read"),
        ("tls.key", b"", "are no certificate and its key"),
        ("tls.crt", b"nothing", "are no certificate and its key"),
        ("ca.crt", b"nothing", "holds no certificates"),
        ("tls.key", b"x" * (2**20 + 1), "larger than"),
    ],
)
async def test_a_server_does_not_start_on_files_that_do_not_fit(
    name: str, content: bytes | None, said: str, settings: Settings, issue: Issue
) -> None:
    identity = issue("server")
    path = identity.files.authorities.with_name(name)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UnusableFile, match=said) as caught:
        async with running(secured(settings, identity), []):
            pass
    assert str(path) in str(caught.value)


async def test_probes_ask_at_a_port_without_tls(settings: Settings, issue: Issue) -> None:
    closed = secured(settings, issue("server"), health_port=0)
    async with running(closed, []) as server:
        assert server.health_address is not None
        assert server.health_address != server.address
        assert await healthy(ChannelSecurity(), server.health_address)
        async with SynthAgentClient(server.health_address, timeout_seconds=5) as client:
            with pytest.raises(errors.PreconditionFailed, match="UNIMPLEMENTED"):
                await client.get_run("r")
