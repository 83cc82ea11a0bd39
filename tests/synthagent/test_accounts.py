"""Accounts: inherited by tasks, carried by metadata, summed in a real database."""

from __future__ import annotations

import asyncio
from pathlib import Path

from synthagent import accounts
from synthagent.store import Store, responses, upgrade
from synthagent.store.responses import StoredResponse


async def test_tasks_inherit_the_account_of_the_block_that_starts_them() -> None:
    async def seen() -> str:
        await asyncio.sleep(0)
        return accounts.current()

    with accounts.charged("outer"):
        with accounts.charged("inner"):
            started = asyncio.create_task(seen())
        assert accounts.current() == "outer"
    assert await started == "inner"
    assert accounts.current() == ""


async def test_an_account_is_what_a_call_brings() -> None:
    assert accounts.outgoing() == ()
    with accounts.charged("run-1"):
        sent = accounts.outgoing()
    accounts.begin([("other", "x"), *sent])
    assert accounts.current() == "run-1"
    accounts.begin([("synthagent-account", "a" * 100)])
    assert accounts.current() == "a" * accounts.MAX_LENGTH, "no longer than its column"
    accounts.begin(None)
    assert accounts.current() == ""


async def test_what_an_account_cost_is_a_sum(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'accounts.db'}"
    upgrade(url)
    store = Store(url)
    made = StoredResponse("yes", 2, 30, 4, 0.5, 1.5)
    for key, account in (("k1", "run-1"), ("k2", "run-1"), ("k3", "run-2"), ("k1", "run-2")):
        await store.write(lambda c, k=key, a=account: responses.put(c, "judge", k, made, a))  # type: ignore[misc]  # mypy infers no type for a lambda's default
    cost = await store.read(lambda c: responses.cost_of(c, "run-1"))
    assert (cost.calls, cost.prompt_tokens, cost.completion_tokens) == (4, 60, 8)
    assert (cost.cost, cost.seconds) == (1.0, 3.0)
    assert (await store.read(lambda c: responses.cost_of(c, "run-2"))).calls == 2
    assert (await store.read(lambda c: responses.cost_of(c, "nobody"))).calls == 0
    await store.close()
