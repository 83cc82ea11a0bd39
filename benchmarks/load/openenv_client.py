"""Drives the peer by its WebSocket protocol; runs in its environment and prints steps and errors.

`python openenv_client.py PORT SESSIONS SECONDS`. Says "ready" once all sessions are open, and
begins when it reads a line.
"""

import asyncio
import json
import sys
import time

from websockets.asyncio.client import connect

_RESET = json.dumps({"type": "reset", "data": {}})
_OPENING_SECONDS = 120.0
_STEP = json.dumps({"type": "step", "data": {}})


async def main(port: int, sessions: int, seconds: float) -> None:
    """Prints {"steps", "errors", "seconds"} as one line of JSON."""
    ready, begin = asyncio.Barrier(sessions + 1), asyncio.Barrier(sessions + 1)
    steps = errors = 0
    end = 0.0

    async def one() -> None:
        nonlocal steps, errors
        async with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=60) as socket:
            await socket.send(_RESET)
            await socket.recv()
            await ready.wait()
            await begin.wait()
            while time.perf_counter() < end:
                await socket.send(_STEP)
                if json.loads(await socket.recv())["type"] == "error":
                    errors += 1
                steps += 1

    tasks = [asyncio.create_task(one()) for _ in range(sessions)]
    async with asyncio.timeout(_OPENING_SECONDS):
        await ready.wait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    started = time.perf_counter()
    end = started + seconds
    await begin.wait()
    await asyncio.gather(*tasks)
    took = time.perf_counter() - started
    sys.stdout.write(json.dumps({"steps": steps, "errors": errors, "seconds": took}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
