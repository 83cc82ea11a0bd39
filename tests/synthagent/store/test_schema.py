import multiprocessing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from synthagent.errors import Corrupt, PreconditionFailed, StorageFull
from synthagent.store import check_current, downgrade, tables, upgrade
from synthagent.store.database import open_engine


def table_names(database_url: str) -> set[str]:
    engine = open_engine(database_url)
    try:
        return set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_migrations_give_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    engine = open_engine(empty_database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, SQLModel.metadata) == []
    engine.dispose()
    assert tables.TaskRow.__tablename__ in table_names(empty_database_url)


def test_down_and_up_again(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    there = table_names(empty_database_url)
    downgrade(empty_database_url)
    assert table_names(empty_database_url) == {"alembic_version"}
    upgrade(empty_database_url)
    assert table_names(empty_database_url) == there


def test_upgrading_again_changes_nothing(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    upgrade(empty_database_url)
    check_current(empty_database_url)


def test_processes_that_start_together_take_turns(empty_database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    starters = [context.Process(target=upgrade, args=(empty_database_url,)) for _ in range(2)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert [starter.exitcode for starter in starters] == [0, 0]
    check_current(empty_database_url)


def test_an_interrupted_upgrade_leaves_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = sa.schema.CreateTable

    def stumble(table: sa.Table, **options: object) -> sa.schema.CreateTable:
        if table.name == "event":
            raise RuntimeError("power went out")
        return create(table, **options)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr("alembic.ddl.impl.schema.CreateTable", stumble)
    with pytest.raises(RuntimeError, match="power"):
        upgrade(empty_database_url)
    assert table_names(empty_database_url) == set()


def test_a_database_without_schema_is_refused_where_nothing_may_change(
    empty_database_url: str,
) -> None:
    with pytest.raises(PreconditionFailed, match="SYNTHAGENT_MIGRATE=true"):
        check_current(empty_database_url)


def test_a_database_of_another_version_is_refused(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    engine = open_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(PreconditionFailed, match="another version"):
        upgrade(empty_database_url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.db").write_text("This is a note and no database. " * 50)
    with pytest.raises(Corrupt, match="damaged"):
        upgrade(f"sqlite:///{tmp_path}/note.db")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="its folder exists"):
        upgrade(f"sqlite:///{tmp_path}/nowhere/synthagent.db")


def test_the_tables_use_nothing_that_postgresql_lacks() -> None:
    dialect = sa.create_mock_engine("postgresql+psycopg2://", executor=lambda *_: None).dialect
    for table in SQLModel.metadata.sorted_tables:
        statement = str(sa.schema.CreateTable(table).compile(dialect=dialect))
        assert statement.strip().startswith("CREATE TABLE")
