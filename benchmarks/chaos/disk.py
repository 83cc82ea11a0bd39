"""A file system of its own, small enough to be filled: what a full disk is to a database.

Needs the right to mount, which root has; `why_not()` says why it cannot be had.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_MEGABYTE = 2**20


class Disk:
    """A tmpfs of so many megabytes at `folder`; a context manager that unmounts it."""

    def __init__(self, megabytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="synthagent-disk-"))
        self._megabytes = megabytes
        self._ballast = self.folder / "ballast"

    def __enter__(self) -> Self:
        options = f"size={self._megabytes}m,mode=755"
        command = ["mount", "-t", "tmpfs", "-o", options, "synthagent-disk", str(self.folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own words
        except BaseException:
            self.folder.rmdir()
            raise
        self.folder.chmod(0o755)  # the database runs as another user
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)  # noqa: S603, S607 - our own words
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def fill(self) -> int:
        """Takes every byte that is left; returns how many. A second call takes what came free."""
        before = self._ballast.stat().st_size if self._ballast.exists() else 0
        size = before
        with self._ballast.open("ab") as ballast, contextlib.suppress(OSError):  # full: as asked
            while True:
                step = min(_MEGABYTE, max(os.statvfs(self.folder).f_bavail * 4096, 4096))
                os.posix_fallocate(ballast.fileno(), size, step)
                size += step
        return size - before

    def free(self) -> None:
        """Gives all of it back."""
        self._ballast.unlink(missing_ok=True)


def why_not() -> str:
    """Why no disk can be had here; "" where one can."""
    if shutil.which("mount") is None:
        return "there is no mount program"
    try:
        with Disk(1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"a file system cannot be mounted: {error.stderr.strip()}"
