"""Two hosts of a Ray cluster on one machine: network namespaces with addresses of their own and a cable between them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from polling import wait_until

_STORE_BYTES = "80000000"
_PORT = 6379


def _can_be_made() -> bool:
    name = f"hw-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False) if shutil.which("ip") else None
    if made is None or made.returncode != 0:
        return False
    return subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False).returncode == 0


needs_hosts = pytest.mark.skipif(not _can_be_made(), reason="needs the right to make network namespaces")


class RayHosts:
    """Hosts 0, the head, and 1, with one and three CPUs for Ray. Use as a context manager."""

    addresses = ("10.231.7.1", "10.231.7.2")
    num_cpus = (1, 3)
    cluster = f"{addresses[0]}:{_PORT}"

    def __init__(self) -> None:
        self._names = [f"hw-{os.getpid()}-{index}" for index in range(2)]
        self._cables = [f"hw{os.getpid()}.{index}"[-15:] for index in range(2)]
        self._directory = Path(tempfile.mkdtemp(prefix="hwr"))
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}

    def __enter__(self) -> RayHosts:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in self._names:
            _ip("netns", "add", name)
        ends = [["netns", name, "name", cable] for name, cable in zip(self._names, self._cables, strict=True)]
        _ip("link", "add", *ends[0][2:], *ends[0][:2], "type", "veth", "peer", *ends[1][2:], *ends[1][:2])
        for name, cable, address in zip(self._names, self._cables, self.addresses, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", cable, "up")
        self._ray(0, "--head", f"--port={_PORT}", "--include-dashboard=false")
        self._ray(1, f"--address={self.cluster}")

    def __exit__(self, *exc: object) -> None:
        for index, name in enumerate(self._names):
            self._kill(index)
            _ip("netns", "del", name)
        shutil.rmtree(self._directory, ignore_errors=True)

    def on(self, index: int) -> tuple[str, ...]:
        """The prefix of a command that is run there."""
        return ("ip", "netns", "exec", self._names[index])

    def processes(self, index: int) -> dict[int, str]:
        """{process id: command line}."""
        found = {}
        for pid in map(int, _ip("netns", "pids", self._names[index]).split()):
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def lose(self, index: int) -> None:
        """As when its power fails: nobody is told anything."""
        _ip("-n", self._names[index], "link", "set", self._cables[index], "down")
        self._kill(index)

    def _kill(self, index: int) -> None:
        for pid in self.processes(index):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.processes(index))

    def _ray(self, index: int, *options: str) -> None:
        command = [*self.on(index), sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={self.addresses[index]}"]
        command += [
            f"--num-cpus={self.num_cpus[index]}",
            f"--object-store-memory={_STORE_BYTES}",
            f"--temp-dir={self._directory / str(index)}",
            *options,
        ]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False)
        assert done.returncode == 0, done.stdout.decode()


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=120, check=True).stdout
