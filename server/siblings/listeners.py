"""One address for several processes: each has a socket of its own there, and the kernel spreads connections over those that listen."""

from __future__ import annotations

import socket


def share(listener: socket.socket) -> None:
    """Lets ``another`` join a socket that was bound without sharing: so a second server on the address has been refused by then."""
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def another(listener: socket.socket) -> socket.socket:
    """One more socket on the address of a shared listener. It gets no connections before its owner listens.

    A Unix socket's file has one listener: there all processes accept from the same.
    """
    if listener.family == socket.AF_UNIX:
        return listener.dup()
    joined = socket.socket(listener.family, listener.type)
    joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if listener.family == socket.AF_INET6:
        joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    joined.bind(listener.getsockname())
    return joined
