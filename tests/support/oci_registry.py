"""A real registry on this machine: Debian's docker-registry, with a password. Unpacked, not installed, where it is not there."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from ports import claimed_port

USER, PASSWORD = "AWS", "secret-password"
_HASH = "$2y$05$abcdefghijklmnopqrstuu8jXihDn6YyI16dkpSl33R.slyuyqYCi"  # bcrypt of PASSWORD
_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}}}
http: {{addr: 127.0.0.1:{port}}}
auth: {{htpasswd: {{realm: test, path: {directory}/passwords}}}}
"""


def registry_program(directory: Path) -> str | None:
    """The program, fetched into ``directory`` if need be; None where there is none to be had."""
    if found := shutil.which("docker-registry"):
        return found
    if shutil.which("apt-get") is None:
        return None
    subprocess.run(["apt-get", "download", "-qq", "docker-registry"], cwd=directory, capture_output=True, timeout=120, check=False)
    for package in directory.glob("docker-registry_*.deb"):
        subprocess.run(["dpkg", "-x", package, directory], check=True)
        return str(directory / "usr/bin/docker-registry")
    return None


@contextlib.contextmanager
def running_registry(program: str, directory: Path) -> Iterator[str]:
    """Its address, HOST:PORT."""
    port = claimed_port()
    (directory / "passwords").write_text(f"{USER}:{_HASH}\n")
    (directory / "config.yml").write_text(_CONFIG.format(directory=directory, port=port))
    with subprocess.Popen([program, "serve", str(directory / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def manifest_digest(address: str, repository: str, tag: str) -> str:
    """Under which digest the registry has it."""
    accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    answer = httpx.head(f"http://{address}/v2/{repository}/manifests/{tag}", auth=(USER, PASSWORD), headers={"Accept": accept})
    answer.raise_for_status()
    return answer.headers["docker-content-digest"]


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline, "the registry does not answer"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/v2/").status_code == 401:
                return
        time.sleep(0.05)
