"""How a client of ours reaches the replicas of a server: which, how often again, and how back.

Calls go round-robin to every address that the target's name has and whose health says SERVING. A
name is asked for its addresses again whenever a connection ends: when a replica goes, and when it
reaches the age that servers give their connections, so that new replicas get their share. Only
UNAVAILABLE is retried, by gRPC itself, and only where nothing was answered yet; every mutation
carries its idempotency key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import grpc

from synthagent.security.channels import ChannelSecurity

if TYPE_CHECKING:
    from synthagent.settings import Settings

_PACKAGE = "synthagent.api.v1"
_RETRIED = (
    {"service": f"{_PACKAGE}.TaskSynthesis"},
    {"service": f"{_PACKAGE}.UserSimulator"},
    {"service": f"{_PACKAGE}.RubricJudge"},
    {"service": f"{_PACKAGE}.Rollout"},
    {"service": f"{_PACKAGE}.ToolMock", "method": "CallTool"},  # a Session reopens itself
)
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": list(_RETRIED),
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


_DNS_MILLISECONDS = 2_000
"""Least time between two questions for the addresses of a name."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How both ends of a connection notice that the other is gone or stands still."""

    seconds: float = 20.0
    """After so much silence an end asks whether the other is there."""
    timeout_seconds: float = 10.0
    """After so long without an answer the connection is given up, and its calls with it."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """That of the settings."""
        return cls(settings.keepalive_seconds, settings.keepalive_timeout_seconds)

    def options(self) -> list[tuple[str, int]]:
        """As channel and server options of gRPC."""
        return [
            ("grpc.keepalive_time_ms", int(self.seconds * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.timeout_seconds * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]


def open_channel(
    address: str,
    max_message_bytes: int = 16 * 2**20,
    security: ChannelSecurity | None = None,
    keep_alive: KeepAlive | None = None,
) -> grpc.aio.Channel:
    """A channel with our retry policy and limits; without `security` in plain text.

    `address` is host:port, or another target of gRPC's: "dns:///NAME:PORT" for all addresses of a
    name, "ipv4:10.0.0.7:50051,10.0.0.8:50051" for a list. Raises UnusableFile.
    """
    return (security or ChannelSecurity()).open(
        address,
        options=[
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.enable_retries", 1),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            *(keep_alive or KeepAlive()).options(),
            ("grpc.dns_min_time_between_resolutions_ms", _DNS_MILLISECONDS),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
    )
