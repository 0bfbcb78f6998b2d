"""Runs `headway local` as a user would, on a port that it chooses, and tells the variables that it prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class LocalSageMaker:
    """A running `headway local ARGUMENTS`. A context manager; ``environ`` is what it tells callers to export."""

    def __init__(self, *arguments: str) -> None:
        self._argv = [sys.executable, "-m", "headway.server.cli", "local", *arguments, "--port", "0"]
        self._log = Path(tempfile.mkstemp(prefix="headway-test-", suffix=".log")[1])
        self.environ: dict[str, str] = {}

    def __enter__(self) -> LocalSageMaker:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "2"})
        deadline = time.monotonic() + 60
        while not (found := dict(re.findall(r"^export (\w+)=(\S+)$", self.log(), re.MULTILINE))).get("AWS_ENDPOINT_URL_S3"):
            assert self.process.poll() is None, f"it exited with {self.process.returncode}:\n{self.log()}"
            assert time.monotonic() < deadline, f"it printed no addresses:\n{self.log()}"
            time.sleep(0.05)
        self.environ = found
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._log.unlink()

    def log(self) -> str:
        return self._log.read_text()

    def client_options(self, service: str) -> dict[str, Any]:
        """boto3.client's options for a service."""
        return {
            "endpoint_url": self.environ[f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}"],
            "region_name": self.environ["AWS_DEFAULT_REGION"],
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }

    def stop(self) -> int:
        """The exit status, once it has stopped everything that it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode
