"""The connections that a build needs: the call graph of the code, at its settings' addresses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit

from synthagent.settings import Settings, load_settings
from tests.manifests.call_graph import SERVICES, Calls, calls_of
from tests.manifests.network import (
    ANY_PORT,
    COLLECTOR_HOST,
    DATABASE_PORT,
    DNS_PORT,
    NEWCOMER,
    Arrow,
)
from tests.manifests.objects import DATABASE_HOST, Manifests, Object, Pod, label, selects


def needed(manifests: Manifests) -> set[Arrow]:
    """Every connection that must get through; there is no other."""
    pods = manifests.pods()
    everybody = (NEWCOMER.name, *(pod.component for pod in pods))
    arrows = {Arrow(name, "dns", DNS_PORT) for name in everybody}
    for name in SERVICES:
        arrows |= set(_of_service(manifests, manifests.pod(name.replace("_", "-")), name))
    migrate = manifests.pod("migrate")
    arrows |= set(_to_database(manifests, migrate, settings_of(manifests, migrate)))
    arrows |= set(_of_trainer(manifests))
    scraped = {"metrics", "http"}  # ports that tell metrics; PodMonitor names the same
    arrows |= {
        Arrow("prometheus", pod.component, pod.ports[port])
        for pod in pods
        for port in scraped & set(pod.ports)
    }
    for route in manifests.of("GRPCRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                address = f"{backend['name']}:{backend['port']}"
                arrows |= set(_arrows(manifests, "gateway", address))
    return arrows


def settings_of(manifests: Manifests, pod: Pod) -> Settings:
    """The settings with which a pod's process starts. Raises SettingsError."""
    return _settings(tuple(sorted(manifests.environment(pod.containers[0]).items())))


@cache
def _settings(environment: tuple[tuple[str, str], ...]) -> Settings:
    with _only(dict(environment)):
        return load_settings()


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    """Gives this process the settings of `environment` and no other."""
    before = {key: value for key, value in os.environ.items() if key.startswith("SYNTHAGENT_")}
    for key in before:
        del os.environ[key]
    set_here = {key: value for key, value in environment.items() if key.startswith("SYNTHAGENT_")}
    os.environ.update(set_here)
    try:
        yield
    finally:
        for key in set_here:
            del os.environ[key]
        os.environ.update(before)


def _of_service(manifests: Manifests, pod: Pod, name: str) -> Iterator[Arrow]:
    settings, calls = settings_of(manifests, pod), calls_of(f"services/{name}")
    yield from _to_services(manifests, pod, calls, settings)
    for role in calls.roles:
        if chosen := getattr(settings, role):
            yield from _arrows(manifests, pod.component, urlsplit(chosen.base_url).netloc)
    if calls.policy and settings.policy_base_url:
        yield from _arrows(manifests, pod.component, urlsplit(settings.policy_base_url).netloc)
    yield from _to_database(manifests, pod, settings)
    if settings.traces_endpoint:
        collector = urlsplit(settings.traces_endpoint)
        assert collector.hostname == COLLECTOR_HOST, "the policies know another collector"
        yield Arrow(pod.component, "collector", collector.port or 80)


def _to_services(
    manifests: Manifests, pod: Pod, calls: Calls, settings: Settings
) -> Iterator[Arrow]:
    for callee in calls.services:
        address = getattr(settings, f"{callee}_address")
        assert address, f"{pod.name} calls {callee} and has no address of it"
        yield from _arrows(manifests, pod.component, address)


def _to_database(manifests: Manifests, pod: Pod, settings: Settings) -> Iterator[Arrow]:
    address = urlsplit(settings.database_url).netloc.rpartition("@")[2]
    if address == f"{DATABASE_HOST}:{DATABASE_PORT}":
        yield Arrow(pod.component, "database", DATABASE_PORT)
    else:
        yield from _arrows(manifests, pod.component, address)


def _of_trainer(manifests: Manifests) -> Iterator[Arrow]:
    trainer = manifests.pod("trainer")
    assert calls_of("trainer").services == {"rollout"}
    given = dict(
        argument.removeprefix("--set=").split("=", 1)
        for argument in trainer.containers[0]["args"]
        if argument.startswith("--set=")
    )
    yield from _arrows(manifests, "trainer", given["rollout.address"])
    for port in (*trainer.ports.values(), ANY_PORT, DNS_PORT, DATABASE_PORT):
        yield Arrow("trainer", "trainer", port)  # ranks choose their ports


def _arrows(manifests: Manifests, source: str, address: str) -> Iterator[Arrow]:
    """From `source` to the pods behind a Service's address."""
    host, _, port = address.removeprefix("dns:///").partition(":")
    service = manifests.one("Service", host.partition(".")[0])
    reached = list(pods_of(manifests, service))
    assert reached, f"nothing is behind {label(service)}"
    for pod in reached:
        for entry in service["spec"]["ports"]:
            if entry["port"] == int(port):
                yield Arrow(source, pod.component, pod.ports[entry["targetPort"]])


def pods_of(manifests: Manifests, service: Object) -> Iterator[Pod]:
    """The pods that a Service selects."""
    for pod in manifests.pods():
        if selects({"matchLabels": service["spec"]["selector"]}, pod.labels):
            yield pod
