"""The process in which targets run: nothing outside it can be reached, or it dies.

`python -m tests.fuzz.confined JOB BOX` imports everything, runs warm-up inputs, and then arms
itself: an audit hook ends the process at whatever Python does with files, sockets, processes,
native libraries or new code; the kernel lets it open no descriptor; an input that takes too long
ends it; memory is bounded, and its growth measured. The input that runs stands in BOX, a file that
is mapped into memory and read by the parent (`tests.fuzz.__main__`).
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import mmap
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BOX_BYTES = 1 << 16
INPUT_BYTES = 4096
FOUND, FORBIDDEN, GREW = 76, 77, 78
SECONDS_PER_INPUT = 20
MOST_GROWTH_BYTES = 48 * 2**20
_ADDRESS_SPACE_BYTES = 2 << 30  # beyond what is mapped at the start
_BANNED = (
    "compile", "ctypes.", "exec", "fcntl.", "ftplib.", "glob.", "http.", "import", "mmap.", "open",
    "os.", "pathlib.", "pty.", "resource.", "shutil.", "signal.", "smtplib.", "socket.",
    "sqlite3.enable_load_extension", "sqlite3.load_extension", "subprocess.", "syslog.",
    "tempfile.", "urllib.", "webbrowser.",
)  # fmt: skip


class Box:
    """The target and input that run, where the parent finds them after whatever happens."""

    def __init__(self, path: Path) -> None:
        number = os.open(path, os.O_RDWR)
        self._map = mmap.mmap(number, BOX_BYTES)
        os.close(number)

    def put(self, target: bytes, data: bytes) -> None:
        """What runs now."""
        content = target + b"\n" + data
        self._map[: 4 + len(content)] = len(content).to_bytes(4, "big") + content

    @staticmethod
    def fill(path: Path, target: str, data: bytes) -> None:
        """Makes the file, with an input for a replay."""
        content = target.encode() + b"\n" + data
        path.write_bytes((len(content).to_bytes(4, "big") + content).ljust(BOX_BYTES, b"\0"))

    @staticmethod
    def read(path: Path) -> tuple[str, bytes]:
        """The last target and input of a process that has ended."""
        content = path.read_bytes()
        content = content[4 : 4 + int.from_bytes(content[:4], "big")]
        target, _, data = content.partition(b"\n")
        return target.decode(), data


def arm() -> None:
    """From here on nothing outside the process can be reached; cannot be undone."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = mapped + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    sys.addaudithook(_forbid)


def _forbid(event: str, args: tuple[object, ...]) -> None:
    if event.startswith(_BANNED) or (event == "sqlite3.connect" and args != (":memory:",)):
        os.write(2, f"\nFORBIDDEN: {event} {args!r:.300}\n".encode())
        faulthandler.dump_traceback()
        os._exit(FORBIDDEN)


def resident_bytes() -> int:
    """Memory of the process, without a file being opened."""
    gc.collect()
    os.lseek(_STATM, 0, os.SEEK_SET)
    return int(os.read(_STATM, 200).split()[1]) * mmap.PAGESIZE


_STATM = os.open("/proc/self/statm", os.O_RDONLY)


class Runner:
    """Targets, the clock of each input, and what was done."""

    def __init__(self, targets: Mapping[str, Callable[[bytes], None]], box: Box) -> None:
        self._targets = [(name.encode(), target) for name, target in targets.items()]
        self._box = box
        self.runs = 0
        self._baseline = 0

    def warm_up(self, seed: str, runs: int) -> None:
        """Imports and caches what is made once; a finding here is one, too."""
        for number in range(runs):
            self(random_input(f"warm-up/{seed}", number))
        self.settle()

    def settle(self) -> None:
        """Growth counts from here."""
        self._baseline = resident_bytes()

    def __call__(self, data: bytes) -> None:
        """Runs the next target on an input."""
        data = data[:INPUT_BYTES]
        name, target = self._targets[self.runs % len(self._targets)]
        self._box.put(name, data)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)  # by default it ends the process
        try:
            target(data)
        except BaseException:  # noqa: BLE001 - a finding, whatever it is
            os.write(2, _bare_traceback())
            os._exit(FOUND)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.runs += 1

    def growth(self) -> int:
        """Bytes that the process has grown by since it was warm."""
        return resident_bytes() - self._baseline


def _bare_traceback() -> bytes:
    """The exception that is handled, without the lines of source, which would have to be read."""
    error = sys.exception()
    lines = [
        f"  {frame.f_code.co_filename}:{number} in {frame.f_code.co_name}"
        for frame, number in traceback.walk_tb(error.__traceback__ if error else None)
    ]
    return "\n".join(["", *lines, f"{type(error).__name__}: {error}"[:2000], ""]).encode(
        "utf-8", "backslashreplace"
    )


def random_input(seed: str, number: int) -> bytes:
    """The same bytes for the same arguments."""
    source = random.Random(f"{seed}/{number}")
    return source.randbytes(source.randrange(1, 1 << source.randrange(3, 11)))


@dataclass(frozen=True)
class Job:
    """What a process is to do; `runs` and `seconds` bound it, whichever is reached first.

    With several targets the inputs go to each in turn; coverage guides one target only.
    """

    targets: Sequence[str]
    module: str = "tests.fuzz.targets"
    """Where they are: a module with TARGETS."""
    seed: str = "1"
    runs: int = 2**31
    warm_up: int = 300
    seconds: float = 30.0
    engine: Literal["atheris", "random", "replay"] = "random"


def main(job: Job, box: Path) -> int:
    """Runs inputs until one is a finding, or the bounds are reached; returns the exit code."""
    guided = importlib.import_module("atheris") if job.engine == "atheris" else None
    with (
        guided.instrument_imports(include=["synthagent.worlds", "synthagent.interchange"])
        if guided
        else nullcontext()
    ):
        targets = importlib.import_module(job.module).TARGETS
    _, replayed = Box.read(box)
    runner = Runner({name: targets[name] for name in job.targets}, Box(box))
    runner.warm_up(job.seed, job.warm_up)
    began = time.monotonic()

    def report() -> int:
        growth = runner.growth()
        found = {"runs": runner.runs, "seconds": round(time.monotonic() - began, 1)}
        os.write(1, (json.dumps({**found, "growth_bytes": growth}) + "\n").encode())
        return GREW if growth > MOST_GROWTH_BYTES else 0

    def is_over() -> bool:
        return time.monotonic() - began > job.seconds or runner.runs >= job.runs

    if guided:
        armed: list[bool] = []

        def one(data: bytes) -> None:
            if not armed:  # only now has libFuzzer opened what it needs
                armed.append(True)
                runner.settle()
                arm()
            runner(data)
            if is_over():  # libFuzzer would end the process without a word to Python
                os._exit(report())

        own = [
            "-artifact_prefix=/dev/full.",  # the parent keeps inputs
            f"-seed={random.Random(job.seed).randrange(1, 2**31)}",
            f"-max_len={INPUT_BYTES}",
        ]
        guided.Setup([sys.argv[0], *own, "-rss_limit_mb=0", "-timeout=0", "-verbosity=0"], one)
        guided.Fuzz()  # ends the process
    arm()
    if job.engine == "replay":
        runner(replayed)
    while job.engine == "random" and not is_over():
        runner(random_input("/".join([*job.targets, job.seed]), runner.runs))
    return report()


if __name__ == "__main__":
    code = main(Job(**json.loads(sys.argv[1])), Path(sys.argv[2]))
    os._exit(code)  # interpreters open files when they end
