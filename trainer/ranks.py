"""The processes that train together: how they meet, and how one notices that another is gone.

`join_ranks` meets the others at the store that the launcher, or else rank 0, serves; within a
bounded time, or it names who is missing. `Heartbeat` then runs beside the training: every rank
leaves signs of life at the store, and a rank that sees none of another's for too long ends itself,
because a collective operation with a dead or stopped rank would wait for a day. Where a connection
to a dead rank breaks, the collective operation fails at once: `lost_rank` tells such a failure
from others. A rank whose training hangs while its threads live is not noticed.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from trainer.failures import RANK_LOST, TERMINATED, RankLost, end
from trainer.launch import Placement

_COLLECTIVE = timedelta(hours=24)
"""Rank 0 evaluates and publishes while the others wait: far longer than a collective."""

_SIGNS_OF_LOSS = ("gloo", "nccl", "Connection closed by peer", "Connection reset by peer")
_HINT = "Its own message says why. Start all ranks again: the run resumes from its last checkpoint"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world_size: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that talks and writes."""
        return self.rank == 0


def join_ranks(threads: int | None, *, timeout_seconds: float = 600.0) -> Ranks:
    """Joins the process group that the environment describes, or makes one of a single rank.

    Raises InvalidInput for a wrong environment, RankLost where ranks are missing after the timeout.
    """
    place = Placement.from_environment()
    # DeepSpeed calls collectives by names that torch is about to retire.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its progress is not the user's
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or max(1, cores // place.local_ranks))
    _tell_libraries(place)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=_meet(place, timeout_seconds),
        rank=place.rank,
        world_size=place.world_size,
        timeout=_COLLECTIVE,
    )
    return Ranks(place.rank, place.world_size)


def lost_rank(error: RuntimeError) -> RankLost | None:
    """What a collective operation failed of, where it is a connection to another rank."""
    text = str(error)
    network = isinstance(error, distributed.DistError) or any(s in text for s in _SIGNS_OF_LOSS)
    if not network:
        return None
    reason = text.strip().splitlines()[0].partition("] ")[2] or text.strip().splitlines()[0]
    return RankLost(f"another rank has ended or cannot be reached ({reason}). {_HINT}")


def end_when_told() -> None:
    """Ends the process with a sentence on SIGTERM, whatever the main thread is waiting for.

    To be called in the main thread. Launchers send it to the others when a rank has failed.
    """
    told, telling = socket.socketpair()
    telling.setblocking(False)  # noqa: FBT003 - the socket's own signature
    signal.signal(signal.SIGTERM, lambda *_: None)  # the byte below is what counts
    signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGTERM not in told.recv(16):
            pass
        end(
            "told to end (SIGTERM), by whoever started it or, where another rank has failed, by "
            "the launcher. Start again: the run resumes from its last checkpoint",
            TERMINATED,
        )
        telling.close()  # not reached before the process ends; keeps the socket alive until then

    threading.Thread(target=wait, name="end-when-told", daemon=True).start()


class Heartbeat:
    """Signs of life between ranks; to be entered after `join_ranks`.

    Two threads: one talks to the store and may block there, the other watches the time.
    """

    def __init__(
        self, place: Placement, limit_seconds: float, on_silence: Callable[[int], None]
    ) -> None:
        """`on_silence` is called with a rank that was silent for the limit."""
        self._place = place
        self._limit = limit_seconds
        self._on_silence = on_silence
        self._others = [rank for rank in range(place.world_size) if rank != place.rank]
        self._heard = dict.fromkeys(self._others, time.monotonic())
        self._done: set[int] = set()
        self._failed = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"heartbeat-{work.__name__}", daemon=True)
            for work in (self._talk, self._watch)
        ]

    def __enter__(self) -> Self:
        if self._others:
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._failed = kind is not None  # then the others shall miss this rank
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2)

    def _talk(self) -> None:
        interval = min(5.0, self._limit / 5)
        last: dict[int, bytes] = {}
        number = 0
        try:
            store = _client(self._place, self._limit)
            own = _beat(self._place.rank)
            while not self._stop.wait(interval if number else 0):
                number += 1
                store.set(own, str(number))
                signs = store.multi_get([_beat(rank) for rank in self._others])
                for rank, sign in zip(self._others, signs, strict=True):
                    if sign == _END.encode():
                        self._done.add(rank)
                    if last.get(rank) != sign:
                        last[rank] = sign
                        self._heard[rank] = time.monotonic()
            if not self._failed:
                store.set(own, _END)
        except RuntimeError:
            return  # without the store nothing is heard any more, which `_watch` notices

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._limit / 10)):
            now = time.monotonic()
            for rank in self._others:
                if rank not in self._done and now - self._heard[rank] > self._limit:
                    self._on_silence(rank)
                    return


def end_for_silence(limit_seconds: float) -> Callable[[int], None]:
    """What a rank does about another's silence: it ends."""

    def act(rank: int) -> None:
        end(
            f"rank {rank} has given no sign of life for {limit_seconds:.0f} s "
            "(run.rank_timeout_seconds): it, its machine or the network has failed or is stopped. "
            "Start all ranks again: the run resumes from its last checkpoint",
            RANK_LOST,
        )

    return act


_END = "end"


def _beat(rank: int) -> str:
    return f"beat/{rank}"


def _attempt() -> str:
    """torchrun's store outlives a restart of its ranks; each attempt has names of its own."""
    return f"synthagent/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _client(place: Placement, timeout_seconds: float, *, serve: bool = False) -> Store:
    """The store where ranks meet. Raises torch's DistError, a RuntimeError."""
    if place.master is None:
        return HashStore()
    host, port = place.master
    store = TCPStore(
        host,
        port,
        is_master=serve,
        timeout=timedelta(seconds=timeout_seconds),
        wait_for_workers=False,
    )
    return PrefixStore(_attempt(), store)


def _meet(place: Placement, timeout_seconds: float) -> Store:
    """Waits for all ranks at the store. Raises RankLost naming those that are missing."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: Store | None = None
    try:
        store = _client(place, timeout_seconds, serve=place.rank == 0 and not served)
        store.set(_beat(place.rank), "0")
        missing = [rank for rank in range(place.world_size) if not store.check([_beat(rank)])]
        if missing:
            store.wait([_beat(rank) for rank in missing], timedelta(seconds=timeout_seconds))
    except RuntimeError as error:
        where = ":".join(str(part) for part in place.master or ())
        raise RankLost(
            f"{place.world_size} ranks did not meet at {where} within {timeout_seconds:.0f} s "
            f"(run.rank_timeout_seconds): {_missing(place, store)}. Look at their "
            "logs, and that MASTER_ADDR and MASTER_PORT are the same and reachable for all"
        ) from error
    store.set_timeout(_COLLECTIVE)
    return store


def _missing(place: Placement, store: Store | None) -> str:
    if store is None:
        return "nobody answers there"
    ranks = range(place.world_size)
    absent = [str(rank) for rank in ranks if not store.check([_beat(rank)])]
    return f"missing: {', '.join(absent)}"


def _tell_libraries(place: Placement) -> None:
    """DeepSpeed reads the environment, whoever has set it."""
    host, port = place.master or ("127.0.0.1", 0)
    told = {
        "RANK": place.rank,
        "WORLD_SIZE": place.world_size,
        "LOCAL_RANK": place.local_rank,
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in told.items()})
