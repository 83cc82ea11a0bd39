"""Who may talk to whom, as the NetworkPolicies of a build say it.

Plays a cluster's part: a connection is let through where the policies that select its source let it
out, and those that select its destination let it in; a pod that no policy selects is open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.manifests.objects import Manifests, Object, selects

ANY_PORT = 12345
"""Stands for the ports that no container declares."""

DNS_PORT = 53
DATABASE_PORT = 5432
COLLECTOR_HOST = "otel-collector.monitoring"


@dataclass(frozen=True)
class Peer:
    """One end of a connection: pods of ours, pods of another namespace, or an address."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    namespace: str = "synthagent"
    address: str = ""

    @property
    def ours(self) -> bool:
        """Whether our policies can select it."""
        return self.namespace == "synthagent" and not self.address


DNS = Peer("dns", {"k8s-app": "kube-dns"}, namespace="kube-system")
PROMETHEUS = Peer("prometheus", {"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
GATEWAY = Peer("gateway", {"app.kubernetes.io/name": "envoy"}, namespace="gateway-system")
COLLECTOR = Peer(
    "collector",
    {"app.kubernetes.io/name": "opentelemetry-collector"},
    {"otlp-http": 4318},
    namespace="monitoring",
)
DATABASE = Peer("database", address="10.20.30.40", namespace="")
STRANGER = Peer("stranger", {"app.kubernetes.io/name": "prometheus"}, namespace="default")
WORLD = Peer("world", address="203.0.113.7", namespace="")
NEWCOMER = Peer("newcomer")
"""A pod in our namespace that nobody has thought of."""
OUTSIDE = (DNS, PROMETHEUS, GATEWAY, COLLECTOR, DATABASE, STRANGER, WORLD)


@dataclass(frozen=True, order=True)
class Arrow:
    """A connection: names of its ends, and the port at which it arrives."""

    source: str
    target: str
    port: int


def peers(manifests: Manifests) -> list[Peer]:
    """Our own ends of connections."""
    return [Peer(pod.component, pod.labels, pod.ports) for pod in manifests.pods()]


def allowed(manifests: Manifests) -> set[Arrow]:
    """Every connection that gets through, between our pods and with what is outside."""
    ours = [*peers(manifests), NEWCOMER]
    policies = manifests.of("NetworkPolicy")
    return {
        Arrow(source.name, target.name, port)
        for source in (*ours, *OUTSIDE)
        for target in (*ours, *OUTSIDE)
        if source.ours or target.ours
        for port in (*target.ports.values(), DNS_PORT, DATABASE_PORT, ANY_PORT)
        if _passes(policies, source, target, port)
    }


def _passes(policies: Iterable[Object], source: Peer, target: Peer, port: int) -> bool:
    policies = list(policies)
    ends = {"egress": (source, target), "ingress": (target, source)}
    return all(
        _passes_at(policies, way, here, there, lambda given: _is_port(given, target, port))
        for way, (here, there) in ends.items()
    )


def _passes_at(
    policies: list[Object],
    way: str,
    here: Peer,
    there: Peer,
    is_port: Callable[[list[Any] | None], bool],
) -> bool:
    """Whether the policies at `here` let a connection with `there` through in this direction."""
    if not here.ours:
        return True
    specs = [
        policy["spec"]
        for policy in policies
        if way.capitalize() in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], here.labels)
    ]
    if not specs:
        return True
    others = "to" if way == "egress" else "from"
    return any(
        _is_among(rule.get(others), there) and is_port(rule.get("ports"))
        for spec in specs
        for rule in spec.get(way, [])
    )


def _is_among(given: list[Object] | None, there: Peer) -> bool:
    return given is None or any(_matches(peer, there) for peer in given)


def _matches(peer: Object, there: Peer) -> bool:
    if block := peer.get("ipBlock"):
        return bool(there.address) and ipaddress.ip_address(there.address) in ipaddress.ip_network(
            block["cidr"]
        )
    if there.address:
        return False
    namespace = {"kubernetes.io/metadata.name": there.namespace}
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], namespace):
            return False
    elif there.namespace != "synthagent":
        return False
    return selects(peer.get("podSelector", {}), there.labels)


def _is_port(given: list[Any] | None, target: Peer, port: int) -> bool:
    if given is None:
        return True
    return any(
        target.ports.get(entry["port"]) == port
        if isinstance(entry["port"], str)
        else entry["port"] == port
        for entry in given
    )
