"""What a phase of the load says, as rows with the goals that it must reach."""

from __future__ import annotations

from benchmarks.load.phases import Crowded, Held, Overloaded
from benchmarks.results import Result

_FLAT = 1.05
_NO_COLLAPSE = 0.8


def of_peer(ours: float, peer: float, sessions: int) -> list[Result]:
    """Steps a second of processor time: ours, in worlds, and those of a peer that does nothing."""
    reference = f"OpenEnv 0.10 no-op environment over WebSocket, {sessions} sessions"
    name = f"load_steps_per_core_second_{sessions}_sessions"
    return [Result(name, ours, "calls/s/core", reference, peer, 2.0)]


def of_echo(echo: float, peer: float, sessions: int) -> list[Result]:
    """Messages a second of processor time that grpc.aio alone does."""
    reference = f"OpenEnv 0.10 no-op environment over WebSocket, {sessions} sessions"
    return [Result("load_echo_per_core_second", echo, "messages/s/core", reference, peer)]


def of_sessions(system: str, held: Held, sessions: int, echo: float) -> list[Result]:
    """Throughput, latencies, errors and memory of a system that holds so many sessions."""
    driven, watch = held.driven, held.watch
    name = f"load_{system}_{sessions}_sessions"
    before = watch.megabytes_before
    turn = 1e3 * sessions / driven.per_second
    return [
        Result(name, driven.per_second, "calls/s", "sessions", sessions),
        Result(f"{name}_per_core_second", held.per_core, "calls/s/core",
               "bare grpc.aio echo, 64 sessions, messages/s/core", echo),
        Result(f"{name}_p50", driven.quantile(0.5) * 1e3, "ms",
               "sessions over calls a second, ms", turn),
        Result(f"{name}_p99", driven.quantile(0.99) * 1e3, "ms",
               "sessions over calls a second, ms", turn),
        _none(f"{name}_errors", driven.errors.total(), "calls answered", driven.answered),
        Result(f"{name}_memory", watch.megabytes_after, "MB", "at the beginning, MB", before,
               _FLAT, at_least=False),
        Result(f"{name}_memory_slope", watch.megabytes_per_minute, "MB/minute",
               "at the beginning, MB", before),
    ]  # fmt: skip


def of_twice_the_sessions(crowded: Crowded) -> list[Result]:
    """That a full server goes on, and tells everybody else when to come again."""
    alone, held, others = crowded.alone, crowded.held, crowded.others
    name = "load_twice_the_sessions"
    told = min(others.told_when, others.errors["RESOURCE_EXHAUSTED"])
    asked = others.answered + others.errors.total()
    return [
        Result(f"{name}_answered", held.per_second, "calls/s", "nobody refused",
               alone.per_second, _NO_COLLAPSE),
        Result(f"{name}_p99", held.quantile(0.99) * 1e3, "ms", "nobody refused",
               alone.quantile(0.99) * 1e3),
        Result(f"{name}_refused_with_retry_info", told, "sessions",
               "asked for beyond the limit", max(1, asked), 1.0),
        _none(f"{name}_errors", held.errors.total(), "calls of open sessions", held.answered),
        _none(f"{name}_after_errors", crowded.after.errors.total(),
              "calls of as many sessions, then", crowded.after.answered),
    ]  # fmt: skip


def of_twice_the_calls(overloaded: Overloaded) -> list[Result]:
    """That calls beyond what a server can do are refused, and the rest answered as before.

    A limit of the caller refuses with RESOURCE_EXHAUSTED. Calls that wait to be looked at at all,
    beyond a thousand, gRPC's core ends with CANCELLED. SynthAgentClient makes both again.
    """
    full, twice, after = overloaded.full, overloaded.twice, overloaded.after
    name = "load_twice_the_calls"
    refused = twice.errors["RESOURCE_EXHAUSTED"] + twice.errors["CANCELLED"]
    offered = twice.answered + twice.errors.total()
    return [
        Result(f"{name}_answered", twice.per_second, "calls/s", "at capacity",
               full.per_second, _NO_COLLAPSE),
        Result(f"{name}_p99", twice.quantile(0.99) * 1e3, "ms", "at capacity",
               full.quantile(0.99) * 1e3),
        Result(f"{name}_refused", refused, "calls", "offered", offered),
        Result(f"{name}_refused_with_retry_info", twice.told_when, "calls", "offered", offered),
        _none(f"{name}_errors", twice.errors.total() - refused, "calls offered", offered),
        _none(f"{name}_after_errors", after.errors.total(), "calls at half the capacity, then",
              after.answered),
    ]  # fmt: skip


def _none(name: str, errors: int, reference: str, count: int) -> Result:
    return Result(name, errors, "errors", reference, max(1, count), 0.0, at_least=False)
