"""What a target must never do, done on purpose: the confinement has to find each."""

import os
import socket
import sqlite3
from pathlib import Path

_KEPT: list[bytearray] = []
_CODE = compile("1 + 1", "code", "eval")


def opens_a_file(_data: bytes) -> None:
    Path("/etc/passwd").read_bytes()


def opens_a_socket(_data: bytes) -> None:
    socket.socket()


def starts_a_process(_data: bytes) -> None:
    os.posix_spawn("/bin/true", ["true"], {})


def runs_code(_data: bytes) -> None:
    eval(_CODE)


def attaches_a_database(_data: bytes) -> None:
    sqlite3.connect("/etc/passwd")


def raises(_data: bytes) -> None:
    _ = 1 / 0


def grows(_data: bytes) -> None:
    _KEPT.append(bytearray(2**20))


TARGETS = {
    misdeed.__name__: misdeed
    for misdeed in (
        opens_a_file,
        opens_a_socket,
        starts_a_process,
        runs_code,
        attaches_a_database,
        raises,
        grows,
    )
}
