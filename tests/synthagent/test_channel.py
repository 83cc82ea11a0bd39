"""Clients find every replica behind a name, new ones too, and leave those that are draining."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from benchmarks.cluster import NameServer
from synthagent.channel import KeepAlive, open_channel

NAME = "judge.synthagent.test"


class Replica(HealthServicer):  # type: ignore[misc]  # has no types
    """A server that counts whom it answers."""

    def __init__(self, host: str, answered: Counter[str]) -> None:
        super().__init__()
        self.host, self.answered = host, answered

    async def Check(self, request: health_pb2.HealthCheckRequest, context: object) -> object:  # noqa: N802 - the contract's name
        self.answered[self.host] += 1
        return await super().Check(request, context)


class Replicas:
    """Servers at addresses of their own and one port, as pods have them."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.replicas: dict[str, Replica] = {}
        self._servers: list[grpc.aio.Server] = []
        self.port = 0

    async def add(self, host: str, *, age_seconds: float = 3600.0) -> None:
        age = int(age_seconds * 1000)
        options = [("grpc.so_reuseport", 0), ("grpc.max_connection_age_ms", age)]
        server = grpc.aio.server(options=options)
        replica = self.replicas[host] = Replica(host, self.answered)
        health_pb2_grpc.add_HealthServicer_to_server(replica, server)
        self.port = server.add_insecure_port(f"{host}:{self.port}")
        await server.start()
        self._servers.append(server)
        await replica.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        for server in self._servers:
            await server.stop(0)


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    made = Replicas()
    yield made
    await made.stop()


async def ask(stub: health_pb2_grpc.HealthStub, answered: Counter[str], count: int) -> set[str]:
    """Who answers `count` calls."""
    answered.clear()
    for _ in range(count):
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
    return set(answered)


async def test_calls_go_to_every_address_of_a_name(replicas: Replicas) -> None:
    first, second, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    for host in (first, second):
        await replicas.add(host, age_seconds=1.5)
    names = NameServer()
    names.hosts[NAME] = [first, second]
    with contextlib.ExitStack() as stack:
        name_server = names.start()
        stack.callback(names.stop)
        channel = open_channel(f"dns://{name_server}/{NAME}:{replicas.port}")
        stub = health_pb2_grpc.HealthStub(channel)
        assert await ask(stub, replicas.answered, 20) == {first, second}

        await replicas.add(third)
        names.hosts[NAME].append(third)
        async with asyncio.timeout(30):  # one connection has to come of age
            while third not in await ask(stub, replicas.answered, 100):
                pass

        await replicas.replicas[third].enter_graceful_shutdown()
        async with asyncio.timeout(10):
            while third in await ask(stub, replicas.answered, 12):
                pass
        await channel.close(None)


async def test_a_list_of_addresses_is_a_target(replicas: Replicas) -> None:
    hosts = ["127.0.0.1", "127.0.0.2"]
    for host in hosts:
        await replicas.add(host)
    target = "ipv4:" + ",".join(f"{host}:{replicas.port}" for host in hosts)
    channel = open_channel(target, keep_alive=KeepAlive(1.0, 1.0))
    assert await ask(health_pb2_grpc.HealthStub(channel), replicas.answered, 20) == set(hosts)
    await channel.close(None)
