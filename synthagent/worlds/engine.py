"""Worlds in SQLite: compile once, open often.

`compile_world` turns a World into a WorldImage: every statement prepared under the authorizer,
every schema compiled, the seeded tables serialized. A WorldImage is immutable and shareable; each
`open` gives a Session (`session`) with a copy of the tables. Tools that a program does not answer
(simulated, builtin) compile, too.
"""

from __future__ import annotations

import threading

from synthagent.worlds import sandbox
from synthagent.worlds.arguments import ArgumentSchema
from synthagent.worlds.programs import Program, WorldError, compile_program, compile_query
from synthagent.worlds.session import Rehearsal, Session
from synthagent.worlds.spec import World
from synthagent.worlds.tables import Digest, combine, load
from synthagent.worlds.versions import root_version

__all__ = ["ENGINE_VERSION", "WorldError", "WorldImage", "compile_world"]

ENGINE_VERSION = "1"


class _Latest(threading.local):
    """The image that a thread made last: who composes a world compiles it, who certifies it next
    does so again."""

    image: WorldImage | None = None


_latest = _Latest()


def compile_world(world: World) -> WorldImage:
    """The image of a world. Raises WorldError, which says where and why it does not compile."""
    image = _latest.image
    if image is None or image.world is not world:
        image = _latest.image = _compile(world)
    return image


def _compile(world: World) -> WorldImage:
    sandbox.limit_heap()
    connection = sandbox.connect()
    meter = sandbox.Meter()
    try:
        connection.execute(f"PRAGMA page_size = {sandbox.PAGE_BYTES}")
        connection.execute(f"PRAGMA max_page_count = {sandbox.MAX_DATABASE_PAGES}")
        for table in world.tables:
            load(connection, table)
        if not world.tables:
            connection.execute("PRAGMA user_version = 1")  # SQLite serializes no empty database
        image = connection.serialize()
        tables = {table.name: Digest(table) for table in world.tables}
        hashes = {name: digest.of(connection) for name, digest in tables.items()}
        programs: dict[str, tuple[ArgumentSchema, Program | None]] = {}
        written: set[str] = set()
        reader = sandbox.authorizer(tables)
        writer = sandbox.authorizer(tables, writes=True, written=written)
        sandbox.confine(connection, reader, meter)
        for tool in world.tools:
            programs[tool.name] = compile_program(connection, tool, reader, writer, written)
    finally:
        connection.close()
    return WorldImage(world, image, tables, hashes, programs)


class WorldImage:
    """A compiled world. Immutable and shareable between threads; made by `compile_world`."""

    def __init__(
        self,
        world: World,
        image: bytes,
        tables: dict[str, Digest],
        hashes: dict[str, bytes],
        programs: dict[str, tuple[ArgumentSchema, Program | None]],
    ) -> None:
        self.world = world
        self.initial_hash = combine(hashes)
        self.bytes = image
        self.digests = tables
        self.table_hashes = hashes
        self.programs = programs
        self.root_version = root_version(world)
        self.authorize = sandbox.authorizer(tables, writes=True, transactions=True)
        self._queries: set[str] = set()

    def open(self) -> Session:
        """A new session in the initial state. The caller closes it."""
        return Session(self)

    def rehearse(self) -> Rehearsal:
        """A new session that can go back to the initial state. The caller closes it."""
        return Rehearsal(self)

    def check_query(self, sql: str) -> None:
        """Makes sure that the text is one SELECT without parameters. Raises WorldError."""
        if sql in self._queries:
            return
        reader = sandbox.authorizer(self.digests)
        connection = sandbox.open_image(self.bytes, reader, sandbox.Meter())
        try:
            compile_query(connection, sql)
        finally:
            connection.close()
        self._queries.add(sql)
