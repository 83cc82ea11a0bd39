"""Who calls whom, read from the code: the truth that the NetworkPolicies are held against.

Services reach one another by the methods of `SynthAgentClient`, model servers by the roles of
`Models` and by `policy_base_url`, the trainer reaches rollout by the same client. All of it is
found in the syntax tree of each package; where a role is chosen at run time, every role counts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from tests.manifests.objects import ROOT

ROLES = ("teacher", "tool", "user", "judge")
SERVICES = ("task_synthesis", "tool_mock", "user_simulator", "rubric_judge", "rollout")


@dataclass(frozen=True)
class Calls:
    """What a package reaches: services and roles by name, and whether the policy's server."""

    services: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    policy: bool = False


@cache
def client_methods() -> dict[str, str]:
    """Method of SynthAgentClient -> the service that it calls."""
    methods: dict[str, str] = {}
    for service in SERVICES:  # the methods of each stand in a file of its name
        tree = ast.parse((ROOT / f"synthagent/client/{service}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef):
                assert node.name not in methods, node.name
                methods[node.name] = service
    return methods


def calls_in(sources: Iterable[str]) -> Calls:
    """What the source texts of a package reach."""
    services: set[str] = set()
    roles: set[str] = set()
    policy = False
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(func=ast.Attribute(value=owner, attr=name), args=arguments):
                    owned_by = _last_name(owner)
                    if owned_by == "client" and name in client_methods():
                        services.add(client_methods()[name])
                    elif owned_by == "models" and name in ("need", "role"):
                        roles |= _roles(arguments)
                case ast.Attribute(attr="policy_base_url"):
                    policy = True
    return Calls(frozenset(services), frozenset(roles), policy)


@cache
def calls_of(package: str) -> Calls:
    """What a package ("services/rollout", "trainer") reaches."""
    return calls_in(path.read_text() for path in sorted((ROOT / package).rglob("*.py")))


def hidden_clients(source: str) -> list[str]:
    """Names under which a source text holds a SynthAgentClient unseen by `calls_in`."""
    hidden = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(arg=name, annotation=annotation) if annotation is not None:
                held = "SynthAgentClient" in ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name() | ast.Attribute() as target], value=value):
                name = _last_name(target)
                held = _last_name(value) == "client" or "SynthAgentClient" in ast.unparse(value)
            case _:
                continue
        if held and name.lstrip("_") != "client":
            hidden.append(name)
    return hidden


def _last_name(node: ast.expr) -> str:
    """The name that an expression ends with, without a leading underscore."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.lstrip("_")
    return ""


def _roles(arguments: list[ast.expr]) -> set[str]:
    match arguments:
        case [ast.Constant(value=str(role))]:
            return {role}
    return set(ROLES)
