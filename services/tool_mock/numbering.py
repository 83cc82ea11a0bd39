"""The numbering of a session's calls: each once, the last one again on request."""

from __future__ import annotations

from synthagent.errors import InvalidInput
from synthagent.worlds.session import Answer


class NumberedCalls:
    """Calls numbered from 0. A subclass makes them and sets `_last` and `sequence`."""

    __slots__ = ("_last", "sequence")

    def __init__(self) -> None:
        self._last: tuple[str, str, Answer] | None = None
        self.sequence = 0
        """Number of the next call."""

    def _repeat(self, sequence: int, tool: str, arguments: str) -> Answer:
        """The answer of the last call again. Raises InvalidInput where it is another call."""
        if self._last is None or sequence != self.sequence - 1:
            raise InvalidInput(
                f"Call {sequence} is out of order; the next number is {self.sequence}.",
                field="call.sequence",
            )
        if self._last[:2] != (tool, arguments):
            raise InvalidInput(
                f"Call {sequence} was made before with other content; the next number is "
                f"{self.sequence}.",
                field="call.sequence",
            )
        return self._last[2]
