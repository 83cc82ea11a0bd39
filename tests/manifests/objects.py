"""Manifests as kustomize builds them, and how their parts are found.

A `Manifests` value is one build: the objects that `kubectl apply -k` would send. It is read, and
copied to be mutated, by every check beside this module. Pods come from whatever has a template for
them.
"""

from __future__ import annotations

import base64
import copy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "local": ROOT / "k8s/overlays/local",
    "production": ROOT / "k8s/overlays/production",
    "keda": ROOT / "tests/manifests/variants/keda",
    "trainjob": ROOT / "tests/manifests/variants/trainjob",
}
COMPONENT = "app.kubernetes.io/component"
OURS = ("synthagent-services", "synthagent-trainer", "synthagent/services", "synthagent/trainer")

DATABASE_HOST = "database.example.com"
OUTSIDE_SECRETS = {
    ("synthagent-database", "url"): f"postgresql+psycopg://synthagent:secret@{DATABASE_HOST}:5432"
    "/synthagent?sslmode=verify-full&sslrootcert=/etc/synthagent/database/ca.crt",
}
"""Secrets that a build asks for and the operator makes, as k8s/README.md describes them."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """The pods of one workload: `owner` is the object that makes them."""

    owner: Object
    template: Object

    @property
    def name(self) -> str:
        """KIND/NAME of the workload."""
        return label(self.owner)

    @property
    def component(self) -> str:
        """What it is in the architecture."""
        return str(self.labels.get(COMPONENT, ""))

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the pods."""
        return dict(self.template.get("metadata", {}).get("labels", {}))

    @property
    def spec(self) -> Object:
        """The pods' specification."""
        return dict(self.template["spec"])

    @property
    def containers(self) -> list[Object]:
        """Containers that run, without those that only start."""
        return list(self.spec["containers"])

    @property
    def every_container(self) -> list[Object]:
        """Containers, and those that run before them."""
        return [*self.spec.get("initContainers", []), *self.containers]

    @property
    def ports(self) -> dict[str, int]:
        """Ports of the pods by name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
        }


@dataclass(frozen=True)
class Manifests:
    """The objects of one build, in its order."""

    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """Objects of these kinds."""
        return [found for found in self.objects if found["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The object; generated names may carry their hash. Raises LookupError."""
        for found in self.of(kind):
            if found["metadata"]["name"] == name or _without_hash(found) == name:
                return found
        raise LookupError(f"no {kind} {name}")

    def pods(self) -> list[Pod]:
        """The pods of every workload."""
        return list(self._pods())

    def pod(self, component: str) -> Pod:
        """The pods of one component. Raises LookupError."""
        for found in self.pods():
            if found.component == component:
                return found
        raise LookupError(f"no pods of {component}")

    def _pods(self) -> Iterator[Pod]:
        for owner in self.of("Deployment", "StatefulSet", "Job"):
            yield Pod(owner, owner["spec"]["template"])
        for owner in self.of("TrainingRuntime"):
            for job in owner["spec"]["template"]["spec"]["replicatedJobs"]:
                yield Pod(owner, job["template"]["spec"]["template"])

    def copy(self) -> Manifests:
        """A copy of its own, to be changed."""
        return Manifests(tuple(copy.deepcopy(self.objects)))

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """What a container finds in its environment; field references are left out.

        Raises LookupError where a ConfigMap, or one of its keys, is missing. A Secret that is not
        part of the build reads as `OUTSIDE_SECRETS` says.
        """
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found.update(self.one("ConfigMap", source["configMapRef"]["name"])["data"])
        for entry in container.get("env", []):
            value = self._value(entry)
            if value is not None:
                found[entry["name"]] = value
        return found

    def _value(self, entry: Object) -> str | None:
        if "value" in entry:
            return str(entry["value"])
        source = entry["valueFrom"]
        if reference := source.get("configMapKeyRef"):
            return str(self.one("ConfigMap", reference["name"])["data"][reference["key"]])
        if reference := source.get("secretKeyRef"):
            try:
                secret = self.one("Secret", reference["name"])
            except LookupError:
                return OUTSIDE_SECRETS[reference["name"], reference["key"]]
            return secret_text(secret, reference["key"])
        return None


def label(found: Object) -> str:
    """KIND/NAME of an object."""
    return f"{found['kind']}/{found['metadata']['name']}"


def is_ours(container: Mapping[str, Any]) -> bool:
    """Whether a container runs one of our images."""
    return str(container["image"]).partition(":")[0].endswith(OURS)


def secret_text(secret: Object, key: str) -> str:
    """A value of a Secret as its reader sees it."""

    return base64.b64decode(secret["data"][key]).decode()


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) selects these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        key, operator = expression["key"], expression["operator"]
        verdict = {
            "In": labels.get(key) in expression.get("values", []),
            "NotIn": labels.get(key) not in expression.get("values", []),
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not verdict:
            return False
    return True


def kubectl() -> Path:
    """The kubectl of this environment."""
    return Path(sys.executable).parent / "kubectl"


@cache
def built(variant: str) -> Manifests:
    """What `kubectl kustomize` makes of a variant. Raises AssertionError with what it says."""
    return build(VARIANTS[variant])


def build(folder: Path) -> Manifests:
    """What `kubectl kustomize` makes of a folder. Raises AssertionError with what it says."""
    done = subprocess.run(
        [kubectl(), "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return Manifests(tuple(yaml.load_all(done.stdout, yaml.CSafeLoader)))


def _without_hash(found: Object) -> str:
    if found["kind"] not in ("ConfigMap", "Secret"):
        return ""
    return str(found["metadata"]["name"]).rpartition("-")[0]
