"""The reference: a bare grpc.aio server that answers each message with fixed bytes.

`python -m benchmarks.echo SIZE` serves `/benchmarks.Echo/Session` and prints its port. Responses
have SIZE bytes, so that reference and system move the same number of bytes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc

METHOD = "/benchmarks.Echo/Session"


async def serve(size: int) -> None:
    """Serves until the process ends; prints the port on a line of its own."""
    answer = bytes(size)

    async def session(
        requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for _request in requests:
            yield answer

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(session)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("benchmarks.Echo", {"Session": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
