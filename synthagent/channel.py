"""How a client of ours reaches a server: its retries, its limits, and how it comes back.

Only UNAVAILABLE is retried, by gRPC itself, and only where nothing was answered yet; every mutation
carries its idempotency key.
"""

from __future__ import annotations

import json

import grpc

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
        ]
    }
)


def open_channel(address: str, max_message_bytes: int = 16 * 2**20) -> grpc.aio.Channel:
    """A channel with our retry policy and limits."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.enable_retries", 1),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
    )
