"""Runs the image as a user would, with the docker command, on the host's network and a free port; removed at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from ports import claimed_port

ROOT = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER", "docker")


def engine_problem() -> str | None:
    """Why no image can be built and run here, None if it can."""
    if shutil.which(DOCKER) is None:
        return f"there is no {DOCKER} command"
    done = subprocess.run([DOCKER, "info"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{DOCKER} info fails: {done.stderr.strip()[-200:]}"


def docker(*words: str, timeout_s: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([DOCKER, *words], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done


class Container:
    """A container of ``image``: ``docker run [options] IMAGE [words]``. A context manager.

    ``options`` are docker's (volumes, --user, --read-only); ``env`` is what the user sets. With network "none" it is reached through
    ``request`` only, from inside.
    """

    def __init__(
        self, image: str, *words: str, env: dict[str, str] | None = None, options: tuple[str, ...] = (), network: str = "host"
    ) -> None:
        self.name = f"headway-test-{uuid.uuid4().hex[:12]}"
        self.port = claimed_port()
        self.url = f"http://127.0.0.1:{self.port}"
        variables = {"SAGEMAKER_BIND_TO_PORT": str(self.port), **(env or {})}
        self._command = ["run", "--detach", "--name", self.name, "--network", network, *options]
        self._command += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        self._command += [image, *words]

    def __enter__(self) -> Container:
        docker(*self._command)
        return self

    def __exit__(self, *exc: object) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)

    def logs(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def exec(self, *words: str, check: bool = True) -> str:
        return docker("exec", self.name, *words, check=check).stdout

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.name).stdout)
        return state

    def wait_exit(self, timeout_s: float = 60) -> int:
        """The exit status, once the container has ended by itself."""
        return int(docker("wait", self.name, timeout_s=timeout_s).stdout)

    def wait_ready(self, timeout_s: float = 120) -> Container:
        self.wait_for(lambda: self.status("/ping") == 200, timeout_s)
        return self

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.state()["Running"], f"the container exited with {self.state()['ExitCode']}:\n{self.logs()}"
            assert time.monotonic() < deadline, f"not within {timeout_s} s; the log:\n{self.logs()}"
            time.sleep(0.1)

    def status(self, path: str) -> int | None:
        """The status that ``path`` answers; None while nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=5).status_code
        except httpx.TransportError:
            return None

    def request(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """(status, text) of a request made inside the container, where there is no curl but Python."""
        program = (
            "import sys, urllib.request, urllib.error\n"
            "url, body = sys.argv[1], sys.argv[2].encode() or None\n"
            "request = urllib.request.Request(url, body, {'Content-Type': 'application/json'})\n"
            "try: answer = urllib.request.urlopen(request, timeout=60)\n"
            "except urllib.error.HTTPError as error: answer = error\n"
            "except urllib.error.URLError: sys.exit('0')\n"
            "print(answer.status); print(answer.read().decode())\n"
        )
        text = json.dumps(body) if body is not None else ""
        done = docker("exec", self.name, "/opt/headway/bin/python", "-c", program, f"{self.url}{path}", text, check=False)
        status, _, answer = done.stdout.partition("\n")
        return int(status or 0), answer.strip()
