"""Every error has its exit code, and the file system's have a sentence."""

from __future__ import annotations

import errno
import os

import pytest

from synthagent.errors import (
    BackendUnavailable,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    SynthAgentError,
)
from trainer.failures import RankLost, TrainingDiverged, disk_sentence, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput, 2),
        (NotFound, 2),
        (PreconditionFailed, 2),
        (BackendUnavailable, 3),
        (Conflict, 3),
        (Corrupt, 4),
        (TrainingDiverged, 5),
        (RankLost, 7),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: type[SynthAgentError], code: int) -> None:
    assert exit_code(error("because")) == code


@pytest.mark.parametrize(
    ("number", "beginning"),
    [
        (errno.ENOSPC, "no room to write /there: No space left on device. Make room"),
        (errno.EDQUOT, "no room to write /there: Disk quota exceeded. Make room"),
        (errno.EROFS, "cannot write or read /there: Read-only file system. Make room"),
    ],
)
def test_the_file_systems_errors_say_what_to_do(number: int, beginning: str) -> None:
    error = OSError(number, os.strerror(number), "/there")
    assert disk_sentence(error).startswith(beginning)
