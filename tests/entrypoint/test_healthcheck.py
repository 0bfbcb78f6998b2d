"""The image's HEALTHCHECK against real sockets, and where it finds the server."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api_server import ApiServer
from certificates import Authority, TlsFiles
from host_files import write

from headway.entrypoint.healthcheck import ask, main
from headway.entrypoint.running_server import RunningServer, find_server

SERVER = "/usr/bin/python3\0-m\0headway.server.cli\0serve\0"


@contextmanager
def answering(*pieces: bytes, pause_s: float = 0.0, host: str = "127.0.0.1") -> Iterator[int]:
    """A server that takes one connection, reads the head of a request and sends the pieces; its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                request = connection.recv(4096)
                assert not request or request.startswith(b"GET /ping HTTP/1.1\r\n")  # or its time was up before
                try:
                    for piece in pieces:
                        connection.sendall(piece)
                        is_over.wait(pause_s)
                except OSError:
                    pass

        is_over = threading.Event()
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        is_over.set()
        thread.join()


def test_ready() -> None:
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") as port:
        assert ask(RunningServer("127.0.0.1", port)) == (True, f"http://127.0.0.1:{port}/ping")


def test_ready_over_ipv6() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", host="::1") as port:
        assert ask(RunningServer("::1", port)) == (True, f"http://[::1]:{port}/ping")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'HTTP/1.1 503 X\r\n\r\n{"status": "starting", "reason": "loading\\nweights"}', "answered 503: loading\nweights"),
        (b"HTTP/1.1 503 X\r\n\r\nplain text", "answered 503: plain text"),
        (b"HTTP/1.1 404 X\r\n\r\n", "answered 404: no reason given"),
        (b"SSH-2.0-x\r\n", "did not answer in HTTP"),
        (b"", "did not answer in HTTP"),
    ],
)
def test_not_ready(answer: bytes, reason: str) -> None:
    with answering(answer) as port:
        assert ask(RunningServer("127.0.0.1", port)) == (False, f"http://127.0.0.1:{port}/ping {reason}")


def test_nobody_there() -> None:
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        is_ready, reason = ask(RunningServer("127.0.0.1", bound.getsockname()[1]))
    assert not is_ready
    assert reason.endswith("Connection refused")


@pytest.mark.parametrize("pieces", [[], [b"H"] * 100], ids=["silent", "a byte at a time"])
def test_a_stuck_server_is_given_up_in_time(pieces: list[bytes]) -> None:
    """Waited for to its end, it would not have answered in HTTP."""
    with answering(*(pieces or [b""]), pause_s=0.05 if pieces else 30) as port:
        assert ask(RunningServer("127.0.0.1", port), timeout_s=0.3) == (False, f"http://127.0.0.1:{port}/ping gave no answer within 0.3 s")


def test_over_a_unix_socket() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/h.sock"
        with ApiServer(network={"uds": path}):
            assert ask(RunningServer(uds=path)) == (True, f"http://localhost/ping over {path}")
        assert ask(RunningServer(uds=path)) == (False, f"http://localhost/ping over {path}: Connection refused")
    assert ask(RunningServer(uds=path)) == (False, f"http://localhost/ping over {path}: No such file or directory")


def test_over_tls_with_a_certificate_that_nobody_else_trusts(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path, Authority().identity())
    with ApiServer(is_ready=False, tls=files.options) as server:
        running = RunningServer(port=server.port, certfile=str(files.certificate), keyfile=str(files.key))
        is_ready, reason = ask(running)
        assert not is_ready
        assert reason.startswith(f"https://127.0.0.1:{server.port}/ping answered 503: The model is not ready yet")
        assert server.engine.info is not None
        server.served.set_ready(server.engine.info)
        assert ask(running) == (True, f"https://127.0.0.1:{server.port}/ping")
        assert not ask(running._replace(certfile=""))[0], "plain HTTP to the port of TLS"
    with ApiServer() as plain:
        assert not ask(running._replace(port=plain.port))[0]


def test_where_clients_need_a_certificate(tmp_path: Path) -> None:
    """The server's own is shown; where its authority is not that of clients, all that can be told is that the server lives."""
    authority, of_clients = Authority(), Authority()
    files = TlsFiles(tmp_path, authority.identity(), authority)
    running = RunningServer(certfile=str(files.certificate), keyfile=str(files.key), asks_for_certificates=True)
    with ApiServer(is_ready=False, tls=files.options) as server:
        is_ready, reason = ask(running._replace(port=server.port))
        assert not is_ready
        assert "answered 503" in reason
    files.authorities.write_bytes(of_clients.pem)
    with ApiServer(is_ready=False, tls=files.options) as server:
        for certfile in (files.certificate, tmp_path / "unreadable"):
            is_ready, reason = ask(running._replace(port=server.port, certfile=str(certfile)))
            assert is_ready
            assert reason.endswith("takes clients with a certificate only: the server is alive, whether it is ready it does not say")
    is_ready, reason = ask(running._replace(port=server.port))
    assert not is_ready
    assert reason.endswith("Connection refused")


@pytest.mark.parametrize(
    ("command_line", "environ", "found"),
    [
        (SERVER + "--model=demo\0--host=0.0.0.0\0--port=8081\0", {"SM_PORT": "1"}, ("127.0.0.1", 8081)),
        (SERVER + "demo\0--port\08082\0", {}, ("127.0.0.1", 8082)),
        (SERVER + "demo\0--port=1\0--port=8083\0--host\0::\0", {}, ("::1", 8083)),
        (SERVER + "demo\0--host=10.0.0.5\0", {"SM_VLLM_PORT": ' "8084" '}, ("10.0.0.5", 8084)),
        ("python\0/usr/local/bin/headway\0serve\0--port=8085\0", {}, ("127.0.0.1", 8085)),
        # Still in the entrypoint, or somebody else: the environment.
        ("python\0-m\0headway.entrypoint\0serve\0--port=1\0", {"SAGEMAKER_BIND_TO_PORT": "8086"}, ("127.0.0.1", 8086)),
        ("nginx\0", {"SM_PORT": "8087", "SM_VLLM_PORT": "1", "SM_VLLM_HOST": "::1"}, ("::1", 8087)),
        ("", {}, ("127.0.0.1", 8080)),
        (SERVER + "--port=x\0", {}, ("127.0.0.1", 8080)),
    ],
)
def test_where_the_server_is(command_line: str, environ: dict[str, str], found: tuple[str, int], tmp_path: Path) -> None:
    write(tmp_path, **{"1/cmdline": command_line, "20/cmdline": "sleep\01\0", "self": "", "meminfo": ""})
    assert find_server(environ, tmp_path)[:2] == found


def test_the_server_need_not_be_process_1(tmp_path: Path) -> None:
    write(
        tmp_path, **{"1/cmdline": "tini\0--\0headway-entry\0", "7/cmdline": SERVER + "--port=8090\0", "100/cmdline": SERVER + "--port=1\0"}
    )
    (tmp_path / "9").mkdir()  # has ended meanwhile
    assert find_server({}, tmp_path)[:2] == ("127.0.0.1", 8090)


def test_the_port_of_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("# port: 1\nmodel: demo\nport: 8091 # mine\n")
    write(tmp_path, **{"1/cmdline": SERVER + f"--config={file}\0--host=0.0.0.0\0"})
    assert find_server({"SM_VLLM_PORT": "2"}, tmp_path)[:2] == ("127.0.0.1", 8091)
    file.unlink()
    assert find_server({"SM_VLLM_PORT": "2"}, tmp_path)[:2] == ("127.0.0.1", 2)


def test_a_server_with_tls_or_a_unix_socket(tmp_path: Path) -> None:
    words = "demo\0--ssl-certfile=/c.pem\0--ssl_keyfile\0k.pem\0--ssl-cert-reqs=Required\0--port=8443\0"
    write(tmp_path, **{"1/cmdline": SERVER + words})
    directory = tmp_path / "1/cwd"  # of the server: where its relative paths begin
    assert find_server({}, tmp_path) == RunningServer("127.0.0.1", 8443, "", "/c.pem", str(directory / "k.pem"), True)
    write(tmp_path, **{"1/cmdline": SERVER + "demo\0--uds=h.sock\0"})
    assert find_server({}, tmp_path).uds == str(directory / "h.sock")
    write(
        tmp_path,
        **{"1/cmdline": SERVER + "--config=c.yaml\0", "1/cwd/c.yaml": "uds: '/run/h.sock' # x\nssl_certfile: \"/c.pem\"\nhost: ::1\n"},
    )
    assert find_server({"SM_VLLM_SSL_KEYFILE": "/k.pem"}, tmp_path) == RunningServer("::1", 8080, "/run/h.sock", "/c.pem", "/k.pem")
    assert find_server({}, tmp_path).url == "https://localhost/ping over /run/h.sock"


def test_one_line_and_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(b'HTTP/1.1 503 X\r\n\r\n{"reason": "two\\nlines\\u001b[2J"}') as port:
        assert main({"SM_PORT": str(port)}, tmp_path) == 1
    assert capsys.readouterr().out == f"not ready: http://127.0.0.1:{port}/ping answered 503: two lines?[2J\n"
    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        assert main({"SM_PORT": str(port)}, tmp_path) == 0
    assert capsys.readouterr().out == f"ready: http://127.0.0.1:{port}/ping\n"


@pytest.mark.parametrize("module", ["headway.entrypoint.healthcheck", "headway.server.cli"])
def test_it_imports_next_to_nothing(module: str) -> None:
    """It runs every few seconds beside a server that wants the cores."""
    words = ["health"] if module == "headway.server.cli" else []
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *words], capture_output=True, text=True, timeout=60, check=False
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.count("\n") == 1
    assert not {"ssl", "http.client", "urllib.request", "email", "asyncio", "pydantic", "logging", "dataclasses"} & imported
