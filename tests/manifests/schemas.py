"""Objects against schemas: Kubernetes' own, strictly, and ours for custom resources.

`kubernetes-validate`'s command line lets kinds pass that it does not know; through its API they are
an error, and so is a kind without a schema here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from tests.manifests.objects import Object, label

VERSIONS = ("1.33", "1.34", "1.35", "1.36")
CUSTOM = {
    "ScaledObject": "keda.sh/v1alpha1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "Gateway": "gateway.networking.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "BackendTLSPolicy": "gateway.networking.k8s.io/v1",
    "TrainJob": "trainer.kubeflow.org/v1alpha1",
    "TrainingRuntime": "trainer.kubeflow.org/v1alpha1",
}
_FOLDER = Path(__file__).parent / "crds"


def violations(found: Object, version: str) -> list[str]:
    """What is wrong with an object for that version of Kubernetes, in sentences."""
    return list(_cached(json.dumps(found, sort_keys=True), version))


@cache
def _cached(found: str, version: str) -> tuple[str, ...]:
    # Variants share most of their objects.
    return tuple(_violations(json.loads(found), version))


def _violations(found: Object, version: str) -> Iterator[str]:
    if found["apiVersion"] == CUSTOM.get(found["kind"]):
        yield from _of_custom(found, version)
        return
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{label(found)}: {error.message}"
    except kubernetes_validate.ValidationError as error:
        yield f"{label(found)}: {'.'.join(map(str, error.path))}: {error.message}"


def _of_custom(found: Object, version: str) -> Iterator[str]:
    if unknown := set(found) - {"apiVersion", "kind", "metadata", "spec"}:
        yield f"{label(found)} has {', '.join(sorted(unknown))}"
    for error in _schema(found["kind"]).iter_errors(found["spec"]):
        yield f"{label(found)}: {error.json_path}: {error.message}"
    for template in _templates(found):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "node"}}
        yield from _violations({**pod, "template": template}, version)


def _templates(found: Object) -> list[Any]:
    if found["kind"] != "TrainingRuntime":
        return []
    jobs = found["spec"].get("template", {}).get("spec", {}).get("replicatedJobs", [])
    return [job["template"]["spec"]["template"] for job in jobs]


@cache
def _schema(kind: str) -> Draft202012Validator:
    schema = yaml.safe_load((_FOLDER / f"{kind}.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
