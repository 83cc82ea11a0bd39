"""Autoscalers: bounds, targets, and metrics that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from synthagent.metrics import ServerMetrics
from synthagent.settings import Settings
from tests.manifests.arrows import settings_of
from tests.manifests.objects import Manifests, Object, label


def bounds_are_in_order(manifests: Manifests) -> Iterator[str]:
    """At least two replicas, below the most; no autoscaler fights a number of replicas."""
    targets: list[str] = []
    for scaler in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        spec = scaler["spec"]
        least = spec.get("minReplicas", spec.get("minReplicaCount", 1))
        most = spec.get("maxReplicas", spec.get("maxReplicaCount", 1))
        if not 2 <= least < most:
            yield f"{label(scaler)} scales from {least} to {most}"
        target = spec["scaleTargetRef"]["name"]
        if target in targets:
            yield f"{label(scaler)} is the second autoscaler of {target}"
        targets.append(target)
        if "replicas" in manifests.one("Deployment", target)["spec"]:
            yield f"{label(scaler)}: every apply would undo what it scaled"


def scaled_metrics_exist(manifests: Manifests) -> Iterator[str]:
    """Metrics are ours, and replicas are added before a replica is full."""
    known = metric_names(ServerMetrics().registry)
    for scaler in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        pod = next(p for p in manifests.pods() if p.owner["metadata"]["name"] == _target(scaler))
        settings = settings_of(manifests, pod)
        for name, threshold in _metrics(scaler):
            if name not in known:
                yield f"{label(scaler)}: there is no metric {name}"
            if threshold >= _most(settings).get(name, float("inf")):
                yield f"{label(scaler)}: a replica is full before {name} reaches {threshold:.0f}"


def metric_names(registry: CollectorRegistry) -> set[str]:
    """Names of a registry's series, without labels."""
    return {
        sample
        for metric in registry.collect()
        for sample in (metric.name, f"{metric.name}_total", f"{metric.name}_bucket")
    }


def _most(settings: Settings) -> dict[str, int]:
    return {
        "synthagent_tool_sessions_open": settings.max_sessions,
        "synthagent_episodes_running": settings.max_concurrent_episodes,
    }


def _target(scaler: Object) -> str:
    return str(scaler["spec"]["scaleTargetRef"]["name"])


def _metrics(scaler: Object) -> Iterator[tuple[str, float]]:
    for metric in scaler["spec"].get("metrics", []):
        if metric["type"] == "Pods":
            pods = metric["pods"]
            yield pods["metric"]["name"], float(pods["target"]["averageValue"])
    for trigger in scaler["spec"].get("triggers", []):
        if trigger["type"] == "prometheus":
            for name in set(re.findall(r"\bsynthagent_\w+", trigger["metadata"]["query"])):
                yield name, float(trigger["metadata"]["threshold"])


CHECKS = (bounds_are_in_order, scaled_metrics_exist)
