"""Where the server listens: TCP or a Unix socket, bound before anything slow, or a sentence that says who or what is in the way."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from headway.server.config.network import NetworkConfig
from headway.server.errors import ConfigError

log = logging.getLogger(__name__)

BACKLOG = 2048
# An interface's or a family's absence; where a name has several addresses, or none was named, the others do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_ASK_TIMEOUT_S = 1.0


@contextmanager
def listening(network: NetworkConfig) -> Iterator[list[socket.socket]]:
    """Sockets on which clients wait from now on instead of being refused. Closed at the end, and the file of --uds is gone then.

    Raises ConfigError.
    """
    with ExitStack() as stack:
        if network.uds is None:
            listeners = bind_tcp(network.host, network.port)
        else:
            listeners = [bind_unix(network.uds, network.uds_mode)]
            stack.callback(_remove, network.uds, os.lstat(network.uds))
            log.info("listening on %s; --host and --port count for nothing beside --uds", network.uds)
        for listener in listeners:
            stack.callback(listener.close)
        yield listeners


def bind_tcp(host: str | None, port: int) -> list[socket.socket]:
    """A listening socket for each address of ``host``; None: all interfaces, of IPv4 and, where there is one, IPv6.

    A taken or forbidden port is a ConfigError that says who holds it, where the system tells.
    """
    listeners: list[socket.socket] = []
    absent: list[str] = []
    for family, address in _addresses(host, port):
        where = f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
        try:
            listeners.append(_listener(family, address))
        except OSError as problem:
            if problem.errno in _NOT_HERE:
                absent.append(where)
                continue
            for listener in listeners:
                listener.close()
            told = f"{problem.strerror}{_holder_of_port(port) if problem.errno == errno.EADDRINUSE else ''}"
            raise ConfigError([f"--port {port}: cannot listen on {where}: {told}"]) from problem
    if not listeners:
        raise ConfigError(
            [f"--host {host}: cannot listen on {', '.join(absent)}: no interface here has that address; leave --host out for all"]
        )
    return listeners


def _addresses(host: str | None, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no name"
        raise ConfigError([f"--host {host}: is neither an address nor a name that can be resolved here ({reason})"]) from problem
    # IPv4 first: its faults are the more familiar ones. A name may stand for an address twice.
    return sorted({(family, tuple(address)) for family, _, _, _, address in found}, key=lambda one: one[0] != socket.AF_INET)


def _listener(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def bind_unix(path: str, mode: int | None) -> socket.socket:
    """A listening Unix socket with the permissions ``mode``, None: read and write for owner and group, less the umask.

    A socket's file that nobody listens on is replaced. Raises ConfigError for whatever else is in the way.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)  # nobody else may connect before the permissions are those asked for
    try:
        listener.bind(path)
        os.chmod(path, 0o660 & ~umask if mode is None else mode)
        listener.listen(BACKLOG)
    except OSError as problem:
        listener.close()
        raise ConfigError([f"--uds {path}: cannot listen there: {_unix_reason(path, problem)}"]) from problem
    finally:
        os.umask(umask)
    return listener


def _clear(path: str) -> None:
    """Takes a stale socket out of the way."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError([f"--uds {path}: something that is no socket is there: remove it, or choose another path"])
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_ASK_TIMEOUT_S)
            asking.connect(path)
    except ConnectionRefusedError:
        try:
            os.unlink(path)
        except OSError as problem:
            reason = f"the socket of a server that has ended is there and cannot be removed: {problem.strerror}"
            raise ConfigError([f"--uds {path}: {reason}"]) from problem
    except FileNotFoundError:
        return
    except (BlockingIOError, TimeoutError):  # its queue is full, so somebody has one
        raise ConfigError([_in_use(path)]) from None
    except OSError as problem:
        raise ConfigError([f"--uds {path}: cannot listen there: {_unix_reason(path, problem)}"]) from problem
    else:
        raise ConfigError([_in_use(path)])


def _in_use(path: str) -> str:
    return f"--uds {path}: in use by {_holder_of_socket(path)}; stop it or choose another path"


def _unix_reason(path: str, problem: OSError) -> str:
    directory = Path(path).absolute().parent
    if isinstance(problem, FileNotFoundError):
        return f"the directory {directory} does not exist"
    if isinstance(problem, PermissionError):
        return f"uid {os.geteuid()} may not make files in {directory}, or not reach it"
    return problem.strerror or str(problem)


def _remove(path: str, made: os.stat_result) -> None:
    """Removes our socket's file, unless another is there by now."""
    try:
        if os.path.samestat(os.lstat(path), made):
            os.unlink(path)
    except OSError as problem:
        log.warning("--uds %s could not be removed: %s", path, problem.strerror)


def _holder_of_port(port: int) -> str:
    name = _listener_in("tcp", lambda address: not isinstance(address, str) and address.port == port)
    return f", held by {name}; stop it or choose another --port" if name else "; choose another --port"


def _holder_of_socket(path: str) -> str:
    return _listener_in("unix", lambda address: address == path) or "another process"


def _listener_in(kind: str, is_it: Callable[[Any], bool]) -> str | None:
    """`python3 (pid 7)` for the process with such a socket; None where the system does not tell."""
    import psutil

    try:
        for connection in psutil.net_connections(kind):
            is_listening = connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)  # Unix sockets have no status
            if is_listening and connection.laddr and is_it(connection.laddr) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return None
