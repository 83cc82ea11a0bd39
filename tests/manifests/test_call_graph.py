"""The call graph is read rightly from source texts, and nothing of the code hides from it."""

import pytest

from tests.manifests.call_graph import (
    ROLES,
    SERVICES,
    Calls,
    calls_in,
    calls_of,
    client_methods,
    hidden_clients,
)
from tests.manifests.objects import ROOT


def test_methods_of_the_client_know_their_service() -> None:
    methods = client_methods()
    assert methods["open_session"] == "tool_mock"
    assert methods["judge"] == "rubric_judge"
    assert set(methods.values()) == set(SERVICES)


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("await self._client.reply(a, b)", Calls(frozenset({"user_simulator"}))),
        ("async for x in resources.client.watch_run(r): pass", Calls(frozenset({"rollout"}))),
        ("await other.reply(a, b)", Calls()),
        ('models.need("judge")', Calls(roles=frozenset({"judge"}))),
        ("self._models.role(name)", Calls(roles=frozenset(ROLES))),
        ("url = self._settings.policy_base_url", Calls(policy=True)),
        ("x = 1", Calls()),
    ],
)
def test_calls_are_found(source: str, calls: Calls) -> None:
    assert calls_in([f"async def f():\n    {source}"]) == calls


@pytest.mark.parametrize(
    "source",
    ["def f(other: SynthAgentClient): ...", "x = resources.client", "self.link = self._client"],
)
def test_a_client_under_another_name_is_found(source: str) -> None:
    assert hidden_clients(source)


def test_no_client_hides() -> None:
    for package in ("services", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            assert hidden_clients(path.read_text()) == [], path


def test_rollout_calls_what_an_episode_needs() -> None:
    calls = calls_of("services/rollout")
    assert calls.services == {"tool_mock", "user_simulator", "rubric_judge"}
    assert calls.policy
