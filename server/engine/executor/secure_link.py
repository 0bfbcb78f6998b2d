"""A link between the engine and a rank on another host: messages over TCP under TLS 1.3.

Both sides hold one certificate, made for this start alone, and accept no other: whoever has not been handed it can neither say anything
nor listen. A peer whose host is gone is noticed within LOST_S, whatever either side waits for.
"""

from __future__ import annotations

import datetime
import errno
import os
import select
import socket
import ssl
import struct
import tempfile
import threading
from dataclasses import dataclass, field
from typing import Protocol

LOST_S = 3
_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 18
_GONE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)


class Link(Protocol):
    """What a rank speaks through: multiprocessing's Connection on the engine's own host, a SecureLink from another."""

    def send_bytes(self, data: bytes) -> None: ...

    def recv_bytes(self) -> bytes:
        """Waits for a message. Raises EOFError behind the last."""
        ...

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM texts of one certificate and its key, which both sides of every link of an engine hold."""

    certificate: str
    key: str = field(repr=False)

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # not the name is trusted but this very certificate
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.certificate)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # of mode 0600; OpenSSL takes a key from a file only
            file.write(self.certificate + self.key)
            file.flush()
            context.load_cert_chain(file.name)
        if is_server:
            context.num_tickets = 0
        return context


def make_credentials() -> Credentials:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ranks of one engine")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    # A link is made once, at the start; clocks of hosts may differ.
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=2))
    certificate = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(certificate.public_bytes(pem).decode(), private.decode())


class SecureLink:
    """Written to by one thread and read from by another. See Link; messages are as long as 4 GiB."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        """``stream`` has shaken hands."""
        stream.setblocking(False)
        self._stream = stream
        self._lock = threading.Lock()  # OpenSSL's state is not made for two threads at a time
        self._received = bytearray()
        self._is_over = False
        self._gone: OSError | None = None

    def fileno(self) -> int:
        return self._stream.fileno()

    def send_bytes(self, data: bytes) -> None:
        """Raises OSError where the peer is gone."""
        left = memoryview(_LENGTH.pack(len(data)) + data)
        with self._lock:
            self._check()
            while left:
                try:
                    left = left[self._stream.send(left) :]
                except ssl.SSLWantWriteError:
                    select.select([], [self._stream], [])

    def recv_bytes(self) -> bytes:
        """Raises EOFError, or OSError where the peer's host is gone. Not to be mixed with ``arrived``."""
        while (message := self._next()) is None:
            is_open = self._take_in()
            if self._has_message():
                continue
            if not is_open:
                raise EOFError
            select.select([self._stream], [], [])
        return message

    def arrived(self) -> list[bytes]:
        """The messages that are there now. Raises as ``recv_bytes`` does, once there are no more."""
        is_open = self._take_in()
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        if not messages and not is_open:
            raise EOFError
        return messages

    def cut(self) -> None:
        """Whoever reads, here or there, comes to the end."""
        try:
            socket.socket.shutdown(self._stream, socket.SHUT_RDWR)  # not TLS's: what has come can still be read
        except OSError:
            return

    def close(self) -> None:
        self._stream.close()

    def _check(self) -> None:
        """Raises OSError where the peer's host is gone, which OpenSSL tells as an end like any other."""
        if (number := self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) in _GONE:
            self._gone = OSError(number, os.strerror(number))
        if self._gone is not None:
            raise self._gone

    def _take_in(self) -> bool:
        """All that the socket has; False: it has ended."""
        with self._lock:
            self._check()
            while not self._is_over:
                try:
                    data = self._stream.recv(_CHUNK)
                except ssl.SSLWantReadError:
                    break
                self._received += data
                self._is_over = not data
        return not self._is_over

    def _has_message(self) -> bool:
        return len(self._received) >= _LENGTH.size and len(self._received) >= _LENGTH.size + _LENGTH.unpack_from(self._received)[0]

    def _next(self) -> bytes | None:
        if not self._has_message():
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message


def reach(address: tuple[str, int], credentials: Credentials, patience_s: float) -> SecureLink:
    """The rank's side. Raises OSError."""
    plain = socket.create_connection(address, timeout=patience_s)
    return SecureLink(credentials.context(is_server=False).wrap_socket(_watched(plain)))


def welcome(plain: socket.socket, context: ssl.SSLContext, patience_s: float) -> SecureLink:
    """The engine's side, of a connection that anybody may have made. Raises OSError."""
    plain.settimeout(patience_s)
    return SecureLink(context.wrap_socket(_watched(plain), server_side=True))


def _watched(plain: socket.socket) -> socket.socket:
    """Small messages leave at once, and a peer that is silent for LOST_S is one that is gone: its kernel answers, however busy it is."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, LOST_S - 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000)
    return plain
