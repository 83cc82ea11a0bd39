"""A value read from files that others replace while the process runs.

The first reading may fail, so that a process does not start on what cannot be used. From then on
the last good value stays until the files hold another good one: a half-written file, or a key that
does not fit its certificate yet, changes nothing and is read again at the next question.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from synthagent.errors import InvalidInput

T = TypeVar("T")
_Seen = tuple[tuple[int, int, int], ...]

_log = logging.getLogger(__name__)  # clients have no structlog


class UnusableFile(InvalidInput):
    """A file of certificates, keys, callers or a token cannot be used; the message says why.

    It names the file and never what is in it.
    """


class Watched(Generic[T]):
    """What `load` makes of the files. `current` may be asked from any thread."""

    def __init__(
        self, paths: Sequence[Path], load: Callable[[], T], *, every_seconds: float = 0.0
    ) -> None:
        """Reads the files; raises UnusableFile. They are looked at every so many seconds at most.

        `load` raises UnusableFile for what it does not accept.
        """
        self._paths = tuple(paths)
        self._load = load
        self._every = every_seconds
        self._lock = threading.Lock()
        self._complaint = ""
        self._looked = time.monotonic()
        self._seen = self._look()
        self._value = load()

    def current(self) -> T:
        """The value, read again where a file has changed. Never fails."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= self._every:
                self._looked = now
                self._refresh()
            return self._value

    def _refresh(self) -> None:
        try:
            seen = self._look()
            if seen == self._seen:
                return
            self._value = self._load()
        except UnusableFile as error:
            # Not marked as seen: whoever writes the files may not be done yet.
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("The last good files stay in use. %s", self._complaint)
            return
        self._seen = seen
        self._complaint = ""
        _log.info("Read again: %s.", ", ".join(str(path) for path in self._paths))

    def _look(self) -> _Seen:
        """What tells one state of the files from another; a link is followed to what it names."""
        try:
            stats = [path.stat() for path in self._paths]
        except OSError as error:
            raise _unreadable(error) from error
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def read(path: Path, most_bytes: int = 2**20) -> bytes:
    """The bytes of a file. Raises UnusableFile where it cannot be read or is larger."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except OSError as error:
        raise _unreadable(error) from error
    if len(data) > most_bytes:
        raise UnusableFile(f"{path} is larger than {most_bytes} bytes.")
    return data


def _unreadable(error: OSError) -> UnusableFile:
    return UnusableFile(f"{error.filename} cannot be read: {error.strerror}.")
