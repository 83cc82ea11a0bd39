"""How the client calls: a deadline for each call, the account it is for, errors as exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from synthagent import accounts, deadlines, tracing
from synthagent.failures import from_rpc_error

M = TypeVar("M")


class Calling:
    """What the methods of every service share."""

    _timeout: float
    """Seconds that a unary call gets where no nearer deadline is inherited."""
    _ready: bool
    """Whether calls wait for a server that is not there yet."""

    async def _unary(
        self, method: Callable[..., Awaitable[M]], request: Any, seconds: float | None = None
    ) -> M:
        timeout = deadlines.timeout(seconds or self._timeout)
        try:
            return await method(
                request,
                timeout=timeout,
                wait_for_ready=self._ready,
                metadata=(*accounts.outgoing(), *tracing.outgoing()),
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _stream(self, method: Callable[..., Any], request: Any) -> AsyncIterator[Any]:
        call = method(
            request,
            timeout=deadlines.timeout(None),
            wait_for_ready=self._ready,
            metadata=(*accounts.outgoing(), *tracing.outgoing()),
        )
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def _pages(self, method: Callable[..., Awaitable[M]], request: Any) -> AsyncIterator[M]:
        """Every page of a listing, from the one that `request` asks for."""
        while True:
            page: Any = await self._unary(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
