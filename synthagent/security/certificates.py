"""TLS credentials from files that are replaced while the process runs, as mounted secrets are.

Certificate and key are used only as a pair that fits, with authorities that can be read. A server
asks at every handshake, so a new connection sees the new certificate; connections that are open
keep theirs. What a server cannot use it does not start on; what it cannot use later changes
nothing.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from synthagent.security.settings import SecuritySettings
from synthagent.security.watched import UnusableFile, Watched, read


@dataclass(frozen=True, slots=True, repr=False)
class Pem:
    """What the files hold, as PEM. Key and certificate are both there or neither is."""

    authorities: bytes
    certificate: bytes | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a process's TLS comes from. Certificate and key are both named or neither is."""

    authorities: Path
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, settings: SecuritySettings) -> CertificateFiles | None:
        """Those of the settings; None without TLS. Raises UnusableFile where one is missing."""
        certificate, key = settings.tls_certificate_file, settings.tls_key_file
        if (certificate is None) != (key is None):
            raise UnusableFile(
                "SYNTHAGENT_TLS_CERTIFICATE_FILE and SYNTHAGENT_TLS_KEY_FILE go together; set both."
            )
        if settings.tls_ca_file is None:
            if certificate is None:
                return None
            raise UnusableFile(
                "SYNTHAGENT_TLS_CA_FILE is not set, and a process with a certificate needs the "
                "authorities that it trusts."
            )
        return cls(settings.tls_ca_file, certificate, key)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(
            path for path in (self.authorities, self.certificate, self.key) if path is not None
        )

    def load(self) -> Pem:
        """What they hold now. Raises UnusableFile, also where a part of them was just replaced."""
        pem = self._read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _check_authorities(context, pem.authorities, self.authorities)
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except (ssl.SSLError, ValueError, OSError) as error:
                why = getattr(error, "reason", None) or str(error)
                raise UnusableFile(
                    f"{self.certificate} and {self.key} are no certificate and its key: {why}."
                ) from error
        if self._read() != pem:
            raise UnusableFile(f"{self.certificate} and what belongs to it are being replaced.")
        return pem

    def _read(self) -> Pem:
        return Pem(
            authorities=read(self.authorities),
            certificate=read(self.certificate) if self.certificate else None,
            key=read(self.key) if self.key else None,
        )

    def watched(self, every_seconds: float = 0.0) -> Watched[Pem]:
        """What they hold, followed. Raises UnusableFile."""
        return Watched(self.paths, self.load, every_seconds=every_seconds)


def server_credentials(files: CertificateFiles, *, mutual: bool) -> grpc.ServerCredentials:
    """Credentials of a port, followed at every handshake. Raises UnusableFile."""
    followed = files.watched()
    used = followed.current()

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        pair = (pem.key or b"", pem.certificate or b"")
        return grpc.ssl_server_certificate_configuration(
            [pair], pem.authorities if mutual else None
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        pem = followed.current()
        if pem is used:
            return None  # gRPC goes on with what it has
        used = pem
        return configuration(pem)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        fetch,  # type: ignore[arg-type]  # its stub does not know that None keeps the last one
        require_client_authentication=mutual,
    )


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """Credentials of a channel; gRPC's are fixed, so `channels` opens another for new ones."""
    return grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.certificate)


def _check_authorities(context: ssl.SSLContext, pem: bytes, path: Path) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableFile(f"{path} holds no certificates of authorities.") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it as it is and restrict who reads the file")
