"""What calls of models are made for: an account, such as a run, that their cost is put down to.

The caller's account travels with every call between services and is stored with each answer of a
model, so that what a run used, in whatever service, is one sum. It lives in a context variable:
each task of an event loop has its own, and those that it starts inherit it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

METADATA_KEY = "synthagent-account"
MAX_LENGTH = 64

_ACCOUNT: ContextVar[str] = ContextVar("synthagent_account", default="")


@contextlib.contextmanager
def charged(account: str) -> Iterator[None]:
    """Puts what is done in the block down to the account, which is ASCII."""
    token = _ACCOUNT.set(account)
    try:
        yield
    finally:
        _ACCOUNT.reset(token)


def current() -> str:
    """The account of the current task; empty where there is none."""
    return _ACCOUNT.get()


def outgoing() -> tuple[tuple[str, str], ...]:
    """The metadata of a call that is made now."""
    account = _ACCOUNT.get()
    return ((METADATA_KEY, account),) if account else ()


def begin(metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
    """Takes over the account of a call that is served from now on."""
    found = next((value for key, value in metadata or () if key == METADATA_KEY), "")
    _ACCOUNT.set(str(found)[:MAX_LENGTH])
