"""Small changes of a build, each a mistake that somebody could make."""

from __future__ import annotations

from collections.abc import Callable

from tests.manifests.objects import Manifests, Object

Mutation = Callable[[Manifests], object]


def pod(manifests: Manifests, component: str) -> Object:
    template: Object = manifests.pod(component).template
    return dict(template)["spec"]  # type: ignore[no-any-return]  # JSON has no types


def container(manifests: Manifests, component: str) -> Object:
    return pod(manifests, component)["containers"][0]  # type: ignore[no-any-return]  # the same


def spec(manifests: Manifests, kind: str, name: str) -> Object:
    return manifests.one(kind, name)["spec"]  # type: ignore[no-any-return]  # the same


def config(manifests: Manifests) -> dict[str, str]:
    return manifests.one("ConfigMap", "synthagent-settings")["data"]  # type: ignore[no-any-return]  # the same


def environment(manifests: Manifests, component: str, name: str, value: str) -> None:
    entries = container(manifests, component)["env"]
    entries[:] = [entry for entry in entries if entry["name"] != name]
    entries.append({"name": name, "value": value})


def argument(manifests: Manifests, component: str, old: str, new: str) -> None:
    arguments = container(manifests, component)["args"]
    arguments[arguments.index(old)] = new


def added(manifests: Manifests, kind: str, name: str) -> Object:
    """The object of that name, once more."""
    twin = manifests.copy().one(kind, name)
    object.__setattr__(manifests, "objects", (*manifests.objects, twin))
    return twin


def removed(manifests: Manifests, kind: str, name: str) -> None:
    gone = manifests.one(kind, name)
    object.__setattr__(manifests, "objects", tuple(o for o in manifests.objects if o is not gone))


def opened(manifests: Manifests, **policies: str) -> None:
    for way, name in policies.items():
        spec(manifests, "NetworkPolicy", name)[way].append({})
