"""Certificates of an authority of the tests, and servers that use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from synthagent.security.callers import token_hash
from synthagent.security.certificates import CertificateFiles
from synthagent.security.channels import ChannelSecurity
from synthagent.settings import Settings, load_settings


@dataclass(frozen=True)
class Identity:
    """A certificate in files, with its key and the authority beside it."""

    files: CertificateFiles

    def settings(self) -> dict[str, Path]:
        return {
            "tls_ca_file": self.files.authorities,
            "tls_certificate_file": certificate_of(self.files),
            "tls_key_file": key_of(self.files),
        }

    def security(self, token_file: Path | None = None) -> ChannelSecurity:
        return ChannelSecurity(self.files, None, token_file)


def certificate_of(files: CertificateFiles) -> Path:
    assert files.certificate is not None
    return files.certificate


def key_of(files: CertificateFiles) -> Path:
    assert files.key is not None
    return files.key


def write(files: CertificateFiles, authority: trustme.CA, name: str) -> None:
    """Puts a new certificate of that name into the files."""
    issued = authority.issue_cert("localhost", "127.0.0.1", name, common_name=name)
    files.authorities.write_bytes(authority.cert_pem.bytes())
    certificate_of(files).write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key_of(files).write_bytes(issued.private_key_pem.bytes())


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


Issue = Callable[[str], Identity]


@pytest.fixture
def issue(authority: trustme.CA, tmp_path: Path) -> Issue:
    """Makes the files of an identity."""

    def make(name: str) -> Identity:
        folder = tmp_path / name
        folder.mkdir()
        files = CertificateFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
        write(files, authority, name)
        return Identity(files)

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a server on free ports with a fresh database."""
    return load_settings(
        database_url=f"sqlite:///{tmp_path / 'synthagent.db'}",
        port=0,
        metrics_port=0,
        drain_seconds=1.0,
        call_timeout_seconds=5.0,
    )


@dataclass
class People:
    """A callers file, and the token of each caller in it."""

    path: Path
    tokens: dict[str, str]

    def add(self, name: str, role: str, more: str = "", *, token: str | None = None) -> None:
        self.tokens[name] = token or f"token-of-{name}"
        entry = f'[[caller]]\nname = "{name}"\nrole = "{role}"\n'
        with self.path.open("a") as stream:
            stream.write(f'{entry}token_sha256 = "{token_hash(self.tokens[name])}"\n{more}\n')

    def metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.tokens[name]}"),)


@pytest.fixture
def people(tmp_path: Path) -> People:
    """Nobody yet."""
    path = tmp_path / "callers.toml"
    path.write_text("")
    return People(path, {})
