"""Copies that are containers of an image, through the Docker engine's API."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.container.conformance.engines.base import Copy, ImageFacts, Start
from headway.container.conformance.outcome import Skipped
from headway.container.docker_engine import connect, owner, remove, sweep, told
from headway.server.bench.server_process import free_port
from headway.server.errors import ConfigError, HeadwayError

_SHM = "64m"  # what an endpoint gives
_MODEL_DIRECTORY = "/opt/ml/model"
_LABEL = "headway.conformance"  # its value is docker_engine.owner
_LOG_LINES = 20_000
_MAX_LOG_BYTES = 32 * 2**20
_PATIENCE_S = 60  # with an answer of the engine's
# What may be inside of an image to ask with; each prints the status alone.
_PYTHON = """\
import sys, urllib.request, urllib.error
try: print(urllib.request.urlopen(sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error: print(error.code)
except OSError: print(0)
"""
_ASKERS = (("python3", "-c", _PYTHON), ("python", "-c", _PYTHON), ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"))


class DockerEngine:
    """``network`` is bridge (ports are published on the loopback address) or host."""

    isolates = True

    def __init__(self, image: str, network: str, model_directory: Path | None, with_gpus: bool, environ: Mapping[str, str]) -> None:
        self.has_networks = network != "host"
        self._image, self._network, self._with_gpus = image, network, with_gpus
        self._volumes = {str(model_directory.resolve()): {"bind": _MODEL_DIRECTORY, "mode": "ro"}} if model_directory else {}
        self._client = connect(environ, _PATIENCE_S)
        with _asking():
            sweep(self._client, _LABEL)
        self._attributes = self._find(image)

    def start(self, start: Start) -> Copy:
        from docker.types import DeviceRequest

        network = "none" if start.is_offline else self._network
        publishes = network == "bridge"
        with _asking(f"{self._image} can't be started"):
            container = self._client.containers.create(
                self._image,
                list(start.words),
                environment=dict(start.environ),
                labels={_LABEL: owner(os.getpid())},
                volumes=self._volumes,
                network_mode=network,
                ports={f"{start.port}/tcp": ("127.0.0.1", None)} if publishes else None,
                user=start.user,
                read_only=start.is_read_only,
                tmpfs={"/tmp": "exec"} if start.is_read_only else None,  # Triton loads there what it compiled
                shm_size=_SHM,
                device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if self._with_gpus else None,
            )
            try:
                container.start()
                return DockerCopy(container, start.port, publishes)
            except BaseException:
                remove(container)
                raise

    def facts(self) -> ImageFacts | None:
        config = self._attributes["Config"]
        return ImageFacts(tuple(config.get("Entrypoint") or ()), config.get("Labels") or {})

    def close(self) -> None:
        self._client.close()

    def _find(self, image: str) -> dict[str, Any]:
        from docker.errors import ImageNotFound

        with _asking():
            try:
                found: dict[str, Any] = self._client.images.get(image).attrs
            except ImageNotFound as error:
                raise ConfigError(
                    [f"the Docker engine has no image {image}: pull or build it first, or give an address with http://"]
                ) from error
        return found


class DockerCopy:
    def __init__(self, container: Any, port: int, is_published: bool) -> None:
        self._container, self._port = container, port
        self.url = f"http://127.0.0.1:{self._published() if is_published else port}"

    def log(self) -> str:
        """The end of it: so many lines, and so many bytes of them."""
        text = bytearray()
        with _asking():
            for piece in self._container.logs(stream=True, follow=False, tail=_LOG_LINES):
                text += piece
                if len(text) > 2 * _MAX_LOG_BYTES:
                    del text[:-_MAX_LOG_BYTES]
        return text[-_MAX_LOG_BYTES:].decode(errors="replace")

    def exit_status(self) -> int | None:
        with _asking():
            self._container.reload()
        state = self._container.attrs["State"]
        return None if state["Status"] in ("created", "running", "restarting") else int(state["ExitCode"])

    def terminate(self) -> None:
        with _asking():
            self._container.kill("SIGTERM")

    def command_lines(self) -> str:
        with _asking():
            return "\n".join(" ".join(process) for process in self._container.top()["Processes"])

    def ping_inside(self) -> int | None:
        from docker.errors import APIError

        for asker in _ASKERS:
            try:
                status, output = self._container.exec_run([*asker, f"http://127.0.0.1:{self._port}/ping"])
            except APIError:  # the container has just ended
                return None
            text = output.decode(errors="replace").strip()
            if status == 0 and text.isdecimal():
                return int(text) or None
            if asker[0] == "curl" and text == "000":
                return None
        raise Skipped("there is neither Python nor curl in the image to ask from inside")

    def close(self) -> None:
        remove(self._container)

    def _published(self) -> int:
        """The loopback port that the engine chose. One that has ended already has none: nothing answers on any free one."""
        self._container.reload()
        bound: Sequence[dict[str, str]] = self._container.attrs["NetworkSettings"]["Ports"].get(f"{self._port}/tcp") or ()
        return int(bound[0]["HostPort"]) if bound else free_port()


@contextlib.contextmanager
def _asking(what: str = "The Docker engine fails") -> Iterator[None]:
    """Raises HeadwayError for what the library raises; it lets errors of the library below it through, too."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        raise HeadwayError(f"{what}: {told(error)}.") from error
