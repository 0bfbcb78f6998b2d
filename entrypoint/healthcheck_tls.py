"""The health check's TLS: encrypted, and the server not verified, which is this container's own and may be called anything."""

from __future__ import annotations

import contextlib
import socket
import ssl

from headway.entrypoint.running_server import RunningServer


def secured(connection: socket.socket, server: RunningServer) -> ssl.SSLSocket:
    """``connection`` after a handshake, within the time that it has. Raises OSError.

    Where the server wants a certificate of its clients, this one shows the server's own, if it may read that: it is taken where the
    same authority signed it, for clients too.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if server.asks_for_certificates:
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # says no within the handshake, and not somewhere in the answer
        with contextlib.suppress(OSError):  # not readable, or encrypted
            context.load_cert_chain(server.certfile, server.keyfile, password="")  # which keeps it from asking on the terminal
    return context.wrap_socket(connection)
