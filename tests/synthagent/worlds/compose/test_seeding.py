"""Seed rows: recipes, bound rows and fillers."""

from random import Random

import pytest

from synthagent.worlds.compose.language import BoundRow, TableRecipe
from synthagent.worlds.compose.seeding import SeedError, Seeds, SeedSource
from synthagent.worlds.compose.surface import IdFormat
from synthagent.worlds.compose.vocabulary import Measure, Pool
from synthagent.worlds.spec import ColumnType

KIND = Pool.model_validate({"noun": "kind/kinds", "values": ["a", "b", "c", "d", "e"]})
PRICE = Measure.model_validate({"noun": "price/prices", "unit": "euros", "range": [10, 99]})
TABLES = {
    "client": TableRecipe(rows=(3, 3), columns={"id": "id", "name": "name", "mail": "email:name"}),
    "item": TableRecipe(
        rows=(4, 5),
        columns={
            "id": "id",
            "label": "label",
            "kind": "pool:kind",
            "price": "measure:amount",
            "client_id": "ref:client",
            "other_id": "ref:nothing?",
            "open": "one:0,1",
        },
    ),
    "log": TableRecipe(rows=(0, 0), columns={"item_id": "ref:item", "text": "const:none"}),
}


def _seeds(seed: int = 1) -> Seeds:
    return Seeds(
        Random(seed),
        SeedSource(
            tables=TABLES,
            pools={"kind": KIND},
            measures={"amount": PRICE},
            formats={name: IdFormat(f"{name}-", "", 100, 3) for name in TABLES},
            labels=(),
            item="room",
        ),
    )


def test_bound_rows_hold_what_they_set_and_fillers_what_is_overridden() -> None:
    seeds = _seeds()
    seeds.let("kind", "pool:kind")
    rows = [
        BoundRow(name="who", table="client"),
        BoundRow(
            name="target",
            table="item",
            set={"kind": "$kind", "client_id": "$who.id", "price": "high:amount"},
        ),
    ]
    seeds.fill(rows, {"item": {"kind": "other:kind:$kind"}})
    kind = seeds.lookup("$kind")
    assert [row["kind"] == kind for row in seeds.rows["item"]].count(True) == 1
    assert seeds.lookup("$target.client_id") == seeds.lookup("$who.id")
    price = seeds.lookup("$target.price")
    assert isinstance(price, int)
    assert price >= 68
    assert len(seeds.rows["client"]) >= 3
    # fillers refer to fillers, so that nothing else belongs to the scenario's client
    owners = [row["client_id"] for row in seeds.rows["item"][1:]]
    assert seeds.lookup("$who.id") not in owners


def test_tables_have_types_unique_identifiers_and_a_stable_order() -> None:
    for seed in range(20):
        seeds = _seeds(seed)
        seeds.fill([], {})
        client, item, log = seeds.tables()
        assert [column.type for column in item.columns] == [
            *(ColumnType.TEXT, ColumnType.TEXT, ColumnType.TEXT, ColumnType.INTEGER),
            *(ColumnType.TEXT, ColumnType.TEXT, ColumnType.INTEGER),
        ]
        assert item.columns[5].nullable
        identifiers = [str(row[0]) for row in item.rows]
        assert identifiers == sorted(identifiers)
        assert identifiers[0] == "item-100"
        assert len({row[1] for row in client.rows}) == len(client.rows)
        assert log.rows == ()


@pytest.mark.parametrize(
    ("reference", "message"),
    [("$nobody", "neither a variable"), ("$who.height", "neither a variable")],
)
def test_unknown_references_are_named(reference: str, message: str) -> None:
    seeds = _seeds()
    seeds.fill([BoundRow(name="who", table="client")], {})
    with pytest.raises(SeedError, match=message):
        seeds.lookup(reference)


def test_unknown_recipes_and_tables_are_refused() -> None:
    with pytest.raises(SeedError, match="recipe 'moon:1' is unknown"):
        _seeds().let("x", "moon:1")
    with pytest.raises(SeedError, match="no table moon"):
        _seeds().fill([BoundRow(name="x", table="moon")], {})
    with pytest.raises(SeedError, match="has no rows yet"):
        _seeds().let("x", "ref:client")
