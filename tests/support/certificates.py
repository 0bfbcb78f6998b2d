"""Authorities and certificates made on the spot, as the files that TLS options name."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

DAY = timedelta(days=1)


class Authority:
    """One of its own; ``pem`` is its certificate."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem: bytes = self._ca.cert_pem.bytes()

    def identity(self, *, since: timedelta = -DAY, until: timedelta = 30 * DAY) -> trustme.LeafCert:
        """A certificate for 127.0.0.1 and localhost with its key, valid between these two from now."""
        now = datetime.now(UTC)
        return self._ca.issue_cert("127.0.0.1", "localhost", not_before=now + since, not_after=now + until)

    def client(self, identity: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority, and shows ``identity`` if it is asked."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        if identity is not None:
            identity.configure_cert(context)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


class TlsFiles:
    """A server's files in ``folder``; ``options`` are those that name them."""

    def __init__(self, folder: Path, identity: trustme.LeafCert, authority: Authority | None = None) -> None:
        self.key, self.certificate, self.authorities = folder / "key.pem", folder / "cert.pem", folder / "ca.pem"
        self.options = {"ssl_keyfile": str(self.key), "ssl_certfile": str(self.certificate)}
        self.put(identity)
        if authority is not None:
            self.authorities.write_bytes(authority.pem)
            self.options |= {"ssl_ca_certs": str(self.authorities), "ssl_cert_reqs": "required"}

    def put(self, identity: trustme.LeafCert) -> None:
        replace(self.key, identity.private_key_pem.bytes())
        replace(self.certificate, b"".join(pem.bytes() for pem in identity.cert_chain_pems))


def replace(path: Path, content: bytes) -> None:
    """As `mv` does: no reader sees half of it."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def handshake(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    return context.wrap_socket(connected(port), server_hostname="localhost", session=session)


def status(connection: ssl.SSLSocket) -> bytes:
    """That of GET /version on an open connection; empty if it is cut."""
    answer = b""
    try:
        connection.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        while not answer.endswith(b"}") and (piece := connection.recv(65536)):
            answer += piece
    except OSError:
        return b""
    return answer[:12]


def serial(port: int, context: ssl.SSLContext) -> int:
    """The number of the certificate that a new connection gets."""
    with handshake(port, context) as connection:
        certificate = connection.getpeercert()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)
