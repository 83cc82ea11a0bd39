"""References between objects: selectors, names, ports, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from tests.manifests.objects import (
    COMPONENT,
    OUTSIDE_SECRETS,
    Manifests,
    Object,
    Pod,
    label,
    selects,
)

_LABELS = {
    "app.kubernetes.io/name",
    COMPONENT,
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
}
_OUTSIDE = {name for name, _ in OUTSIDE_SECRETS} | {
    "synthagent-gateway-tls",
    "synthagent-tls",
    "synthagent-callers",
}


def names_are_unique(manifests: Manifests) -> Iterator[str]:
    """Kubernetes would overwrite one with the other; pods of one name claim one address."""
    for name, count in Counter(map(label, manifests.objects)).items():
        if count > 1:
            yield f"{name} is there {count} times"
    for found in manifests.objects:
        if found["kind"] != "Namespace" and found["metadata"].get("namespace") != "synthagent":
            yield f"{label(found)} is in no namespace of ours"


def labels_follow_the_convention(manifests: Manifests) -> Iterator[str]:
    """app.kubernetes.io/* on every object and every pod. Policies and the namespace need none."""
    labelled = [
        (label(found), found["metadata"].get("labels", {}))
        for found in manifests.objects
        if found["kind"] not in ("NetworkPolicy", "Namespace", "ConfigMap", "Secret")
    ]
    for name, labels in [*labelled, *((f"{p.name}'s pod", p.labels) for p in manifests.pods())]:
        if missing := _LABELS - set(labels):
            yield f"{name} lacks {', '.join(sorted(missing))}"


def selectors_match(manifests: Manifests) -> Iterator[str]:
    """Whatever selects pods selects some, and workloads select their own and nobody else's."""
    pods = manifests.pods()
    for found in manifests.objects:
        for selector in _selectors(found):
            if selector is None or not any(selects(selector, pod.labels) for pod in pods):
                yield f"{label(found)} selects no pod"
    for pod in pods:
        selector = pod.owner["spec"].get("selector") or {"matchLabels": pod.labels}
        if not selects(selector, pod.labels):
            yield f"{pod.name} does not select its own pods"
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if spread["labelSelector"] != selector:
                yield f"{pod.name} spreads others' pods, not its own"
    for one, other in combinations((p for p in pods if "selector" in p.owner["spec"]), 2):
        if selects(one.owner["spec"]["selector"], other.labels):
            yield f"{one.name} selects the pods of {other.name}"


def _selectors(found: Object) -> Iterator[Object | None]:
    spec = found.get("spec", {})
    match found["kind"]:
        case "Service":
            yield {"matchLabels": spec["selector"]} if spec.get("selector") else None
        case "PodDisruptionBudget" | "PodMonitor":
            yield spec.get("selector")  # without one it selects nothing, and the API takes it
        case "NetworkPolicy":
            yield spec["podSelector"]


def references_lead_somewhere(manifests: Manifests) -> Iterator[str]:
    """Accounts, claims, ConfigMaps, Secrets, scaled workloads and routes' services exist."""
    known = {label(found) for found in manifests.objects}
    for owner, reference in _references(manifests):
        kind, _, name = reference.partition("/")
        if reference not in known and not (kind == "Secret" and name in _OUTSIDE):
            yield f"{owner} refers to {reference}, which is not there"


def _references(manifests: Manifests) -> Iterator[tuple[str, str]]:
    for pod in manifests.pods():
        yield pod.name, f"ServiceAccount/{pod.spec['serviceAccountName']}"
        for reference in _of_pod(pod):
            yield pod.name, reference
    for found in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = found["spec"]["scaleTargetRef"]
        yield label(found), f"{target.get('kind', 'Deployment')}/{target['name']}"
    for found in manifests.of("StatefulSet"):
        yield label(found), f"Service/{found['spec']['serviceName']}"
    for found in manifests.of("TrainJob"):
        reference = found["spec"]["runtimeRef"]
        yield label(found), f"{reference['kind']}/{reference['name']}"
    yield from _references_of_the_gateway(manifests)


def _references_of_the_gateway(manifests: Manifests) -> Iterator[tuple[str, str]]:
    for found in manifests.of("GRPCRoute"):
        for parent in found["spec"]["parentRefs"]:
            yield label(found), f"Gateway/{parent['name']}"
        for rule in found["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                yield label(found), f"Service/{backend['name']}"
    for found in manifests.of("BackendTLSPolicy"):
        spec = found["spec"]
        for reference in (*spec["targetRefs"], *spec["validation"]["caCertificateRefs"]):
            yield label(found), f"{reference['kind']}/{reference['name']}"
    for found in manifests.of("Gateway"):
        for listener in found["spec"]["listeners"]:
            for certificate in listener["tls"]["certificateRefs"]:
                yield label(found), f"Secret/{certificate['name']}"


def _of_pod(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        if claim := volume.get("persistentVolumeClaim"):
            yield f"PersistentVolumeClaim/{claim['claimName']}"
        if secret := volume.get("secret"):
            yield f"Secret/{secret['secretName']}"
        if config := volume.get("configMap"):
            yield f"ConfigMap/{config['name']}"
    for container in pod.every_container:
        for source in container.get("envFrom", []):
            for kind, reference in source.items():
                yield f"{'ConfigMap' if kind == 'configMapRef' else 'Secret'}/{reference['name']}"
        for entry in container.get("env", []):
            for kind, reference in entry.get("valueFrom", {}).items():
                if kind in ("configMapKeyRef", "secretKeyRef"):
                    yield f"{'ConfigMap' if kind[0] == 'c' else 'Secret'}/{reference['name']}"


def volumes_are_mounted(manifests: Manifests) -> Iterator[str]:
    """Every mount has its volume, and every volume is mounted."""
    for pod in manifests.pods():
        templates = pod.owner["spec"].get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        volumes |= {template["metadata"]["name"] for template in templates}
        mounted = {
            mount["name"]
            for container in pod.every_container
            for mount in container.get("volumeMounts", [])
        }
        for name in volumes ^ mounted:
            yield f"{pod.name}: volume {name} is {'mounted' if name in mounted else 'there'} alone"


def ports_are_named_once_and_exist(manifests: Manifests) -> Iterator[str]:
    """Port names and numbers are unique in a pod; probes, services and monitors name such ports."""
    for pod in manifests.pods():
        given = [port for each in pod.containers for port in each.get("ports", [])]
        for key in ("name", "containerPort"):
            for value, count in Counter(port.get(key) for port in given).items():
                if value is None or count > 1:
                    yield f"{pod.name}: port {key} {value} is there {count} times"
        for container in pod.containers:
            yield from _probed(pod, container)
    yield from _ports_of_services(manifests)
    yield from _ports_of_routes_and_monitors(manifests)


def _ports_of_services(manifests: Manifests) -> Iterator[str]:
    for service in manifests.of("Service"):
        for pod in manifests.pods():
            if selects({"matchLabels": service["spec"].get("selector", {})}, pod.labels):
                for port in service["spec"]["ports"]:
                    if port["targetPort"] not in pod.ports:
                        yield f"{label(service)}: {pod.name} has no port {port['targetPort']}"


def _ports_of_routes_and_monitors(manifests: Manifests) -> Iterator[str]:
    for route in manifests.of("GRPCRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = manifests.one("Service", backend["name"])
                if backend["port"] not in {port["port"] for port in service["spec"]["ports"]}:
                    yield f"{label(route)}: {backend['name']} has no port {backend['port']}"
    every_port = {name for pod in manifests.pods() for name in pod.ports}
    for monitor in manifests.of("PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in every_port:
                yield f"{label(monitor)}: no pod has a port {endpoint['port']}"


def _probed(pod: Pod, container: Object) -> Iterator[str]:
    own = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(kind, {})
        if "grpc" in probe and probe["grpc"]["port"] not in own.values():
            yield f"{pod.name}: {kind} asks port {probe['grpc']['port']}, which is not opened"
        if "httpGet" in probe and probe["httpGet"]["port"] not in own:
            yield f"{pod.name}: {kind} asks port {probe['httpGet']['port']}, which has no such name"


CHECKS = (
    names_are_unique,
    labels_follow_the_convention,
    selectors_match,
    references_lead_somewhere,
    volumes_are_mounted,
    ports_are_named_once_and_exist,
)
