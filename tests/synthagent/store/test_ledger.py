"""Ledger entries: one winner a key, pages in order of writing, copies."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from synthagent.errors import InvalidInput, NotFound
from synthagent.store import Store, ledger
from synthagent.store.ledger import LedgerEntry, Source

TASK = "example-court-booking"
ROOT = "0" * 32
ENTRY = LedgerEntry(
    task_id=TASK,
    tool="look_up",
    arguments='{"topic":"tides"}',
    state_version=ROOT,
    next_state_version=ROOT,
    ok=True,
    result='{"text":"first"}',
    error_code="",
    source=Source.GENERATED,
)


async def test_the_first_writer_of_a_key_wins_whatever_the_connection(
    filled: Store, database_url: str
) -> None:
    other = Store(database_url)
    offers = [replace(ENTRY, result=f'{{"text":"{number}"}}') for number in range(40)]
    winners = await asyncio.gather(
        *(
            (filled, other)[number % 2].write(partial(ledger.record, entry=offer))
            for number, offer in enumerate(offers)
        )
    )
    await other.close()
    assert len(set(winners)) == 1
    assert winners[0] in offers
    assert await filled.read(lambda c: ledger.list_page(c, TASK)) == ledger.LedgerPage(
        (winners[0],), ""
    )


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "other"},
        {"tool": "other"},
        {"arguments": '{"topic":"winds"}'},
        {"state_version": "1" * 32},
    ],
)
async def test_each_part_of_the_key_counts(store: Store, change: dict[str, Any]) -> None:
    other = replace(ENTRY, result='{"text":"other"}', **change)
    await store.write(lambda c: ledger.record(c, ENTRY))
    assert await store.write(lambda c: ledger.record(c, other)) == other

    def found(entry: LedgerEntry) -> tuple[str, str, str, str]:
        return entry.task_id, entry.tool, entry.arguments, entry.state_version

    assert await store.read(lambda c: ledger.find(c, *found(ENTRY))) == ENTRY
    assert await store.read(lambda c: ledger.find(c, *found(other))) == other


async def test_what_was_never_written_is_not_found(store: Store) -> None:
    await store.write(lambda c: ledger.record(c, ENTRY))
    assert await store.read(lambda c: ledger.find(c, TASK, "look_up", "{}", ROOT)) is None


async def test_generated_entries_come_newest_first_and_without_matches(store: Store) -> None:
    offers = [replace(ENTRY, arguments=f'{{"n":{number}}}') for number in range(5)]
    matched = replace(ENTRY, arguments='{"n":"one"}', source=Source.SEMANTIC, match_reason="same")
    for entry in (*offers, matched, replace(ENTRY, tool="change"), replace(ENTRY, task_id="x")):
        await store.write(partial(ledger.record, entry=entry))
    found = await store.read(lambda c: ledger.generated(c, TASK, ["look_up"], [ROOT], 3))
    assert found == offers[:1:-1]
    assert await store.read(lambda c: ledger.generated(c, TASK, ["look_up"], ["1" * 32], 3)) == []


async def test_pages_hold_every_entry_once_in_order_of_writing(filled: Store) -> None:
    offers = [replace(ENTRY, arguments=f'{{"n":{number}}}') for number in range(7)]
    for entry in offers:
        await filled.write(partial(ledger.record, entry=entry))
    seen: list[LedgerEntry] = []
    token = ""
    for _ in range(3):
        page = await filled.read(
            partial(ledger.list_page, task_id=TASK, page_size=3, page_token=token)
        )
        seen += page.entries
        token = page.next_page_token
    assert seen == offers
    assert token == ""


async def test_a_ledger_of_no_task_and_a_foreign_token_are_refused(filled: Store) -> None:
    with pytest.raises(NotFound, match="nobody-knows"):
        await filled.read(lambda c: ledger.list_page(c, "nobody-knows"))
    with pytest.raises(InvalidInput, match="page_token"):
        await filled.read(lambda c: ledger.list_page(c, TASK, page_token="soon"))


async def test_a_copy_leaves_what_the_task_holds_and_may_be_repeated(store: Store) -> None:
    changed = replace(ENTRY, arguments='{"n":1}', next_state_version="1" * 32)
    own = replace(ENTRY, task_id="final", result='{"text":"own"}')
    for entry in (ENTRY, changed, own):
        await store.write(partial(ledger.record, entry=entry))
    assert await store.write(lambda c: ledger.copy(c, TASK, "final")) == 1
    assert await store.write(lambda c: ledger.copy(c, TASK, "final")) == 0

    def of(arguments: str) -> LedgerEntry:
        return replace(changed, task_id="final", arguments=arguments)

    key = ("final", "look_up")
    assert await store.read(lambda c: ledger.find(c, *key, ENTRY.arguments, ROOT)) == own
    assert await store.read(lambda c: ledger.find(c, *key, '{"n":1}', ROOT)) == of('{"n":1}')


async def test_long_entries_make_short_pages(filled: Store) -> None:
    offers = [
        replace(ENTRY, arguments=f'{{"n":{number}}}', result=f'"{"x" * 900_000}"')
        for number in range(5)
    ]
    for entry in offers:
        await filled.write(partial(ledger.record, entry=entry))
    sizes, token = [], ""
    while True:
        page = await filled.read(partial(ledger.list_page, task_id=TASK, page_token=token))
        sizes.append(len(page.entries))
        if not (token := page.next_page_token):
            break
    assert sizes == [2, 2, 1]
