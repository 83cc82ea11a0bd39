"""A client's end of a secured connection: TLS and a token from files that may be replaced.

gRPC fixes the credentials of a channel when it is opened. `SecuredChannel` therefore opens another
one where the files have changed: calls that begin then use it, and those that run end on the old
one, which is closed when the last of them has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
from pydantic import ValidationError

from synthagent.security.callers import AUTHORIZATION
from synthagent.security.certificates import CertificateFiles, Pem, channel_credentials
from synthagent.security.settings import PREFIX, SecuritySettings
from synthagent.security.watched import UnusableFile, Watched, read

_LOOK_SECONDS = 1.0
_LONGEST_CALL_SECONDS = 30 * 86400.0  # a run is watched for days
_MOST_TOKEN_BYTES = 4096

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """How a client proves who it is and whom it trusts. None everywhere: it does neither."""

    certificates: CertificateFiles | None = None
    server_name: str | None = None
    """Name that a server's certificate must bear; None means the host of the address."""
    token_file: Path | None = None

    @classmethod
    def of(cls, settings: SecuritySettings) -> Self:
        """That of the settings. Raises UnusableFile where they do not fit together."""
        return cls(CertificateFiles.of(settings), settings.tls_server_name, settings.token_file)

    def open(self, address: str, options: Options = ()) -> grpc.aio.Channel:
        """A channel. Raises UnusableFile."""
        if self.certificates is None and self.token_file is None:
            return grpc.aio.insecure_channel(address, options=list(options))
        return SecuredChannel(self, address, options)


class SecuredChannel(grpc.aio.Channel):
    """A channel that follows its files. Used by one event loop."""

    def __init__(self, security: ChannelSecurity, address: str, options: Options) -> None:
        """Reads the files; raises UnusableFile."""
        self._address = address
        self._options = list(options)
        if security.server_name:
            self._options.append(("grpc.ssl_target_name_override", security.server_name))
        files, token = security.certificates, security.token_file
        self._pem: Watched[Pem] | None = files.watched(_LOOK_SECONDS) if files else None
        self._token: Watched[str] | None = (
            Watched([token], lambda: _read_token(token), every_seconds=_LOOK_SECONDS)
            if token
            else None
        )
        self._opened_with = self._pem.current() if self._pem else None
        self._channel = self._open()
        self._retired: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def _open(self) -> grpc.aio.Channel:
        if self._opened_with is None:
            return grpc.aio.insecure_channel(self._address, options=self._options)
        return grpc.aio.secure_channel(
            self._address,
            channel_credentials(self._opened_with),
            options=self._options,
        )

    def current(self) -> grpc.aio.Channel:
        """The channel for a call that begins now."""
        if self._pem is not None and (pem := self._pem.current()) is not self._opened_with:
            old, self._opened_with = self._channel, pem
            self._channel = self._open()
            self._retired[old] = asyncio.create_task(self._retire(old))
        return self._channel

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        await channel.close(grace=_LONGEST_CALL_SECONDS)
        self._retired.pop(channel, None)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What says who calls, where it is a token."""
        return ((AUTHORIZATION, f"Bearer {self._token.current()}"),) if self._token else ()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """A method of this channel."""
        return _Method(self, lambda channel: channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """A method of this channel."""
        return _Method(self, lambda channel: channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """A method of this channel."""
        return _Method(self, lambda channel: channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """A method of this channel."""
        return _Method(self, lambda channel: channel.stream_stream(*args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        """Ends every call, after `grace` seconds where given, and the channels."""
        retired = dict(self._retired)
        for task in retired.values():
            task.cancel()
        for channel in (self._channel, *retired):
            await channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """As gRPC's channel."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As gRPC's channel."""
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As gRPC's channel."""
        await self.current().channel_ready()


class _Method:
    """A method, called on the channel of the moment and with what says who calls."""

    def __init__(self, owner: SecuredChannel, make: Callable[[grpc.aio.Channel], Any]) -> None:
        self._owner = owner
        self._make = make
        self._channel: grpc.aio.Channel | None = None
        self._method: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        channel = self._owner.current()
        if channel is not self._channel:
            self._channel, self._method = channel, self._make(channel)
        given = kwargs.pop("metadata", None) or ()
        return self._method(*args, metadata=(*given, *self._owner.metadata()), **kwargs)


def client_security() -> ChannelSecurity:
    """That of a client process, from SYNTHAGENT_TLS_* and SYNTHAGENT_TOKEN_FILE.

    Raises UnusableFile where they do not fit together.
    """
    try:
        settings = SecuritySettings()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        variable = f"{PREFIX}{first['loc'][0]}".upper()
        raise UnusableFile(f"{variable} does not fit: {first['msg']}.") from None
    return ChannelSecurity.of(settings)


def _read_token(path: Path) -> str:
    text = read(path, _MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
    if not text or not text.isprintable() or not text.isascii():
        raise UnusableFile(f"{path} holds no token: one line of ASCII is needed.")
    return text
