import asyncio
import sys
from dataclasses import replace

from synthagent.store import Store
from synthagent.store.responses import StoredResponse, find, put

KEY = "a" * 64
MADE = StoredResponse("Yes ✓", 2, 10, 5, 0.25, 1.5)


async def test_what_is_put_is_found_under_its_role_and_key(store: Store) -> None:
    assert await store.read(lambda c: find(c, "judge", KEY)) is None
    assert await store.write(lambda c: put(c, "judge", KEY, MADE)) == MADE
    assert await store.read(lambda c: find(c, "judge", KEY)) == MADE
    assert await store.read(lambda c: find(c, "user", KEY)) is None


async def test_the_first_writer_wins_also_over_processes(store: Store, database_url: str) -> None:
    program = (
        "import asyncio, sys; from synthagent.store import Store; "
        "from synthagent.store.responses import StoredResponse, put\n"
        "async def main():\n"
        "    store = Store(sys.argv[1])\n"
        "    made = StoredResponse(sys.argv[3], 1, 1, 1, 0.0, 0.0)\n"
        "    kept = await store.write(lambda c: put(c, 'judge', sys.argv[2], made))\n"
        "    await store.close()\n"
        "    print(kept.response)\n"
        "asyncio.run(main())"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, database_url, KEY, answer),
            stdout=asyncio.subprocess.PIPE,
        )
        for answer in ("one", "two")
    ]
    kept = {(await process.communicate())[0].decode().strip() for process in processes}
    assert len(kept) == 1
    late = await store.write(lambda c: put(c, "judge", KEY, replace(MADE, response="late")))
    assert {late.response} == kept
