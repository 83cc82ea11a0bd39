"""Page tokens: the place where the next page of a listing begins, as a decimal number."""

from __future__ import annotations

from synthagent.errors import InvalidInput

_MOST_DIGITS = 18  # what a column of 64 bits holds


def place(page_token: str) -> int:
    """The place that a token names; 0, the beginning, where there is none.

    Raises InvalidInput for a token that no page gave.
    """
    if not page_token:
        return 0
    if not (page_token.isascii() and page_token.isdigit() and len(page_token) <= _MOST_DIGITS):
        raise InvalidInput(
            f"page_token {page_token!r} is not one that a page gave.", field="page_token"
        )
    return int(page_token)
