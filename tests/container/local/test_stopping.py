"""`headway local` that is told to stop: whenever and however often, it leaves nothing behind and prints no traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from control_plane import PRETEND, WAIT
from data_plane import boto
from polling import wait_until

from headway.container.local import running
from headway.container.local.cli import main
from headway.server.errors import ConfigError

# As `headway`, but for the program that copies run.
_PROGRAM = f"""
import sys
from headway.container.local import managed
from headway.container.local.copies.process import ProcessStarter
managed._starter = lambda options, machine: ProcessStarter(machine, {PRETEND!r})
from headway.server.cli import main
sys.exit(main())
"""


@contextlib.contextmanager
def started(tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    argv = [sys.executable, "-c", _PROGRAM, "local", "--port", "0", *words]
    where = tmp_path / "tmp"
    where.mkdir()
    environ["TMPDIR"] = str(where)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()
    assert list(where.iterdir()) == []


def control_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("export AWS_ENDPOINT_URL_SAGEMAKER="):
            return line.strip().partition("=")[2]
    raise AssertionError("it announced nothing")


def wait_in_service(url: str) -> None:
    with contextlib.closing(boto(url, service="sagemaker")) as control:
        control.get_waiter("endpoint_in_service").wait(EndpointName="local", WaiterConfig=WAIT)


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_the_copies_and_the_runtime(tmp_path: Path, number: signal.Signals) -> None:
    noted = tmp_path / "pids"
    with started(tmp_path, "--process", "-e", f"PIDS={noted}") as process:
        wait_in_service(control_url(process))
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert pids(noted)
        assert not any(psutil.pid_exists(pid) for pid in pids(noted))


def test_a_second_signal_kills_a_copy_that_ignores_the_first(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    with started(tmp_path, "--process", "-e", f"PIDS={noted}", "-e", "MODE=stubborn") as process:
        wait_in_service(control_url(process))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "stopping" not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=25)  # less than the 30 s that the copy had
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert not any(psutil.pid_exists(pid) for pid in pids(noted))


def test_a_copy_that_starts_is_ended_with_the_runtime(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    with started(tmp_path, "--process", "-e", f"PIDS={noted}", "-e", "MODE=never") as process:
        wait_until(lambda: pids(noted), 60)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert not any(psutil.pid_exists(pid) for pid in pids(noted))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_that_is_open_does_not_hold_up_the_end_for_long(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, "--process", "-e", "MODE=ready") as process:
        url = control_url(process)
        wait_in_service(url)
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as asking:
            asking.sendall(b"POST /endpoints/local/invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nwait100")
            wait_until(lambda: _has_open_request(process), 30)
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


def _has_open_request(process: subprocess.Popen[str]) -> bool:
    """Whether the runtime is connected with its copy beside pings, which are short."""
    listening = [
        c.laddr for child in psutil.Process(process.pid).children(recursive=True) for c in child.net_connections() if c.status == "LISTEN"
    ]
    ports = {address.port for address in listening}
    return any(c.raddr and c.raddr.port in ports for c in psutil.Process(process.pid).net_connections())


def test_a_port_that_is_taken_is_told_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "open_storage", lambda *given: pytest.fail("the stores were started"))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match="choose another --port"):
        main(["--process", "--port", str(other.getsockname()[1])], {})
