"""Binding: TCP on every address of a name, Unix sockets, and what is said of each that is not to be had."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import claimed_port

from headway.server import listen
from headway.server.config.network import NetworkConfig
from headway.server.errors import ConfigError
from headway.server.listen import bind_tcp, bind_unix, listening


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, since a socket's path is short, and open to other users."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def told(network: NetworkConfig) -> str:
    with pytest.raises(ConfigError) as caught, listening(network):
        pass
    (problem,) = caught.value.problems
    return problem


def reaches(family: socket.AddressFamily, address: object) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(60)
        return client.connect_ex(address) == 0  # type: ignore[arg-type]


def test_no_host_means_all_interfaces_of_both_kinds() -> None:
    port = claimed_port()
    with listening(NetworkConfig(port=port)) as listeners:
        assert [(one.family, one.getsockname()[:2]) for one in listeners] == [
            (socket.AF_INET, ("0.0.0.0", port)),
            (socket.AF_INET6, ("::", port)),
        ]
        assert reaches(socket.AF_INET, ("127.0.0.1", port))
        assert reaches(socket.AF_INET6, ("::1", port))
    assert not reaches(socket.AF_INET, ("127.0.0.1", port))


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ipv6(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, address)

    real = listen._listener
    monkeypatch.setattr(listen, "_listener", without_ipv6)
    with listening(NetworkConfig(port=claimed_port())) as listeners:
        assert [one.family for one in listeners] == [socket.AF_INET]


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")])
def test_hosts(host: str, address: str) -> None:
    with listening(NetworkConfig(host=host, port=claimed_port())) as listeners:
        assert address in [one.getsockname()[0] for one in listeners]


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), (None, "0.0.0.0")])
def test_a_port_that_is_taken(host: str | None, shown: str) -> None:
    port = claimed_port()
    with listening(NetworkConfig(host=host, port=port)):
        problem = told(NetworkConfig(host=host, port=port))
    start = f"--port {port}: cannot listen on {shown}:{port}: Address already in use, held by "
    assert problem.startswith(start)
    assert problem.endswith(f" (pid {os.getpid()}); stop it or choose another --port")


def test_all_or_nothing() -> None:
    port = claimed_port()
    with listening(NetworkConfig(host="::1", port=port)):
        assert f"cannot listen on [::]:{port}: Address already in use" in told(NetworkConfig(port=port))
        assert not reaches(socket.AF_INET, ("127.0.0.1", port))


@pytest.mark.parametrize(("host", "shown"), [("203.0.113.7", "203.0.113.7"), ("2001:db8::7", "[2001:db8::7]")])
def test_an_address_of_another_machine(host: str, shown: str) -> None:
    port = claimed_port()
    assert told(NetworkConfig(host=host, port=port)) == (
        f"--host {host}: cannot listen on {shown}:{port}: no interface here has that address; leave --host out for all"
    )


@pytest.mark.parametrize("host", ["no-such-host.invalid", "[::1]", "1.2.3.4.5", "x" * 70, "a..b"])
def test_a_name_that_is_unknown(host: str) -> None:
    assert told(NetworkConfig(host=host)).startswith(f"--host {host}: is neither an address nor a name that can be resolved here (")


def test_a_unix_socket_and_its_end(folder: Path) -> None:
    path = folder / "h.sock"
    with listening(NetworkConfig(uds=str(path))) as listeners:
        assert [one.family for one in listeners] == [socket.AF_UNIX]
        assert reaches(socket.AF_UNIX, str(path))
        problem = told(NetworkConfig(uds=str(path)))
        assert problem.startswith(f"--uds {path}: in use by ")
        assert problem.endswith(f" (pid {os.getpid()}); stop it or choose another path")
        assert reaches(socket.AF_UNIX, str(path)), "the one who was there first goes on"
    assert not path.exists()


def test_only_our_own_file_is_removed(folder: Path) -> None:
    path = folder / "h.sock"
    with listening(NetworkConfig(uds=str(path))):
        path.unlink()
        other = bind_unix(str(path), None)
    assert path.exists()
    other.close()
    with listening(NetworkConfig(uds=str(path))):
        path.unlink()  # by somebody else: no harm


def test_a_socket_that_a_server_left_behind_is_replaced(folder: Path) -> None:
    path = folder / "h.sock"
    bind_unix(str(path), None).close()
    assert stat.S_ISSOCK(path.lstat().st_mode)
    with listening(NetworkConfig(uds=str(path))):
        assert reaches(socket.AF_UNIX, str(path))


def test_a_live_socket_whose_queue_is_full_is_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_ASK_TIMEOUT_S", 0.01)
    path = folder / "h.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting, socket.socket(socket.AF_UNIX) as more:
        busy.bind(str(path))
        busy.listen(0)
        for client in (waiting, more):
            client.setblocking(False)
            client.connect_ex(str(path))
        assert "in use by" in told(NetworkConfig(uds=str(path)))


def link(path: Path) -> None:
    path.symlink_to("/no/such/socket")


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, link])
def test_something_else_in_the_way_is_left_alone(make: Callable[[Path], None], folder: Path) -> None:
    path = folder / "h.sock"
    make(path)
    assert told(NetworkConfig(uds=str(path))) == f"--uds {path}: something that is no socket is there: remove it, or choose another path"
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize(("name", "reason"), [("no", "the directory {}/no does not exist"), ("file", "Not a directory")])
def test_a_directory_that_is_not_there_or_none(name: str, reason: str, folder: Path) -> None:
    (folder / "file").touch()
    path = f"{folder}/{name}/h.sock"
    assert told(NetworkConfig(uds=path)) == f"--uds {path}: cannot listen there: {reason.format(folder)}"


def test_no_permission(folder: Path) -> None:
    folder.chmod(0o555)
    stale = folder / "old.sock"
    user = os.geteuid()
    if user == 0:
        bind_unix(str(stale), 0o666).close()
    os.seteuid(user or 65534)  # root may do everything
    try:
        problem = told(NetworkConfig(uds=f"{folder}/h.sock"))
        kept = told(NetworkConfig(uds=str(stale))) if user == 0 else None
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
    assert problem == f"--uds {folder}/h.sock: cannot listen there: uid {user or 65534} may not make files in {folder}, or not reach it"
    assert kept is None or "the socket of a server that has ended is there and cannot be removed: Permission denied" in kept


@pytest.mark.parametrize(
    ("umask", "permissions", "mode"), [(0o022, None, 0o640), (0o002, None, 0o660), (0o077, None, 0o600), (0o077, "666", 0o666)]
)
def test_permissions_of_a_unix_socket(umask: int, permissions: str | None, mode: int, folder: Path) -> None:
    before = os.umask(umask)
    try:
        with listening(NetworkConfig(uds=f"{folder}/h.sock", uds_permissions=permissions)):
            assert stat.S_IMODE((folder / "h.sock").stat().st_mode) == mode
        assert os.umask(umask) == umask, "the process keeps its own"
    finally:
        os.umask(before)


def test_bound_is_listening() -> None:
    """Clients wait in the queue from now on, while the server still imports its libraries."""
    (listener,) = bind_tcp("127.0.0.1", port := claimed_port())
    with listener:
        assert reaches(socket.AF_INET, ("127.0.0.1", port))
