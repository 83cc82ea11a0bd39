"""Pods: images, security, resources, probes, and how they end."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from synthagent.deadlines import ModelSeconds
from tests.manifests.arrows import settings_of
from tests.manifests.objects import ROOT, Manifests, Object, Pod, is_ours

_UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SLACK_SECONDS = 5
"""What a process may take between the end of its draining and its own end."""


def quantity(text: str) -> float:
    """A quantity of the Kubernetes API as a number. Raises ValueError for one that is none."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(text))
    if not matched or matched[2] not in _UNITS:
        raise ValueError(f"{text} is no quantity")
    return float(matched[1]) * _UNITS[matched[2]]


def images_are_pinned(manifests: Manifests) -> Iterator[str]:
    """A version or a digest, never "latest"; our own images have this project's version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in manifests.pods():
        for container in pod.every_container:
            image = str(container["image"])
            tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
            if not tag or tag == "latest":
                yield f"{pod.name}: image {image} has no version"
            if is_ours(container) and tag != project:
                yield f"{pod.name}: image {image} is not version {project}"


def pods_are_restricted(manifests: Manifests) -> Iterator[str]:
    """The profile "restricted" of the pod security standards, and a read-only root."""
    for pod in manifests.pods():
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{pod.name} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name} has no seccomp profile"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.name} has {key}"
        if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
            yield f"{pod.name} mounts a path of its node"
        for container in pod.every_container:
            yield from _restricted(pod, container)


def _restricted(pod: Pod, container: Object) -> Iterator[str]:
    where, context = f"{pod.name}/{container['name']}", container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{where} may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where} keeps capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{where} may write its root file system"
    if not any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]):
        yield f"{where} has no place for temporary files"


def accounts_have_no_token(manifests: Manifests) -> Iterator[str]:
    """Each workload has an account of its own, and no token of it."""
    owners: dict[str, str] = {}
    for pod in manifests.pods():
        account = pod.spec["serviceAccountName"]
        other = owners.setdefault(account, pod.name)
        if other != pod.name:
            yield f"{pod.name} and {other} share the account {account}"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name} mounts a token"
    for account in manifests.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"account {account['metadata']['name']} hands out tokens"


def requests_are_at_most_limits(manifests: Manifests) -> Iterator[str]:
    """CPU and memory are asked for and limited; what cannot be shared is the same in both."""
    for pod in manifests.pods():
        for container in pod.every_container:
            where = f"{pod.name}/{container['name']}"
            asked = container.get("resources", {}).get("requests", {})
            limits = container.get("resources", {}).get("limits", {})
            for name in ("cpu", "memory"):
                if name not in asked or name not in limits:
                    yield f"{where} has no request or no limit of {name}"
            for name in asked.keys() & limits.keys():
                if quantity(asked[name]) > quantity(limits[name]):
                    yield f"{where} asks for more {name} than its limit"
            if asked.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
                yield f"{where} shares a GPU"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{pod.name}: volume {volume['name']} has no limit"


def servers_are_probed(manifests: Manifests) -> Iterator[str]:
    """Start, readiness and liveness of whatever serves; ours over gRPC. Readiness acts first."""
    for pod in manifests.pods():
        for container in pod.containers if pod.owner["kind"] in _SERVERS else []:
            where = f"{pod.name}/{container['name']}"
            probes = {
                kind: container.get(f"{kind}Probe") for kind in ("startup", "readiness", "liveness")
            }
            for kind, probe in probes.items():
                if not probe:
                    yield f"{where} has no {kind} probe"
                elif is_ours(container) and "grpc" not in probe:
                    yield f"{where}: its {kind} probe is not a gRPC probe"
            ready, alive = probes["readiness"], probes["liveness"]
            if ready and alive and _patience(ready) >= _patience(alive):
                yield f"{where} is restarted before it is taken out of service"


_SERVERS = ("Deployment", "StatefulSet")


def _patience(probe: Object) -> int:
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def draining_ends_before_the_pod(manifests: Manifests) -> Iterator[str]:
    """A call in flight may end: preStop and draining fit the grace, and every call the draining."""
    for pod in manifests.pods():
        if pod.owner["kind"] != "Deployment" or not is_ours(pod.containers[0]):
            continue
        settings = settings_of(manifests, pod)
        stop = pod.containers[0].get("lifecycle", {}).get("preStop", {})
        pause = stop.get("sleep", {}).get("seconds", 0)
        if not pause:
            yield f"{pod.name} ends before anybody knows that it is going"
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace < pause + settings.drain_seconds + _SLACK_SECONDS:
            yield f"{pod.name} is killed after {grace} s, while it still drains"
        models = ModelSeconds.of(settings)
        longest = settings.call_timeout_seconds + max(models.tool, models.user, models.judge)
        if settings.drain_seconds < longest:
            yield f"{pod.name} cuts calls that may take {longest:.0f} s"


def replicas_are_spread_and_kept(manifests: Manifests) -> Iterator[str]:
    """Each Deployment has a disruption budget, and spreads over nodes."""
    kept = [budget["spec"] for budget in manifests.of("PodDisruptionBudget")]
    for pod in manifests.pods():
        if pod.owner["kind"] != "Deployment":
            continue
        if pod.owner["spec"]["selector"] not in [spec.get("selector") for spec in kept]:
            yield f"{pod.name} has no disruption budget"
        spread = pod.spec.get("topologySpreadConstraints", [])
        if "kubernetes.io/hostname" not in {each["topologyKey"] for each in spread}:
            yield f"{pod.name} may lie on one node"
    for spec in kept:
        if spec.get("maxUnavailable") != 1 or "minAvailable" in spec:
            yield "a disruption budget would block the drain of a node with the only replica"


CHECKS = (
    images_are_pinned,
    pods_are_restricted,
    accounts_have_no_token,
    requests_are_at_most_limits,
    servers_are_probed,
    draining_ends_before_the_pod,
    replicas_are_spread_and_kept,
)
