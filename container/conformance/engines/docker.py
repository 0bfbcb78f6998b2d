"""Copies that are containers of an image, through the Docker engine's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.container.conformance.engines.base import Copy, ImageFacts, Start
from headway.container.conformance.outcome import Skipped
from headway.container.docker_engine import connect, told
from headway.server.errors import ConfigError, HeadwayError

_SHM = "64m"  # what an endpoint gives
_MODEL_DIRECTORY = "/opt/ml/model"
_LOG_LINES = 20_000
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
        self._attributes = self._find(image)

    def start(self, start: Start) -> Copy:
        import docker

        network = "none" if start.is_offline else self._network
        publishes = network == "bridge"
        container = None
        try:
            container = self._client.containers.create(
                self._image,
                list(start.words),
                environment=dict(start.environ),
                volumes=self._volumes,
                network_mode=network,
                ports={f"{start.port}/tcp": ("127.0.0.1", None)} if publishes else None,
                user=start.user,
                read_only=start.is_read_only,
                tmpfs={"/tmp": ""} if start.is_read_only else None,
                shm_size=_SHM,
                device_requests=[docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])] if self._with_gpus else None,
            )
            container.start()
        except docker.errors.DockerException as error:
            if container is not None:
                container.remove(force=True)
            raise HeadwayError(f"{self._image} can't be started: {told(error)}.") from error
        return DockerCopy(container, start.port, publishes)

    def facts(self) -> ImageFacts | None:
        config = self._attributes["Config"]
        return ImageFacts(tuple(config.get("Entrypoint") or ()), config.get("Labels") or {})

    def close(self) -> None:
        self._client.close()

    def _find(self, image: str) -> dict[str, Any]:
        import docker

        try:
            found: dict[str, Any] = self._client.images.get(image).attrs
        except docker.errors.ImageNotFound as error:
            raise ConfigError(
                [f"the Docker engine has no image {image}: pull or build it first, or give an address with http://"]
            ) from error
        except docker.errors.DockerException as error:
            raise HeadwayError(f"The Docker engine fails: {told(error)}.") from error
        return found


class DockerCopy:
    def __init__(self, container: Any, port: int, is_published: bool) -> None:
        self._container, self._port = container, port
        self.url = f"http://127.0.0.1:{self._published() if is_published else port}"

    def log(self) -> str:
        text: bytes = self._container.logs(tail=_LOG_LINES)
        return text.decode(errors="replace")

    def exit_status(self) -> int | None:
        self._container.reload()
        state = self._container.attrs["State"]
        return None if state["Status"] in ("created", "running", "restarting") else int(state["ExitCode"])

    def terminate(self) -> None:
        self._container.kill("SIGTERM")

    def command_lines(self) -> str:
        return "\n".join(" ".join(process) for process in self._container.top()["Processes"])

    def ping_inside(self) -> int | None:
        import docker

        for asker in _ASKERS:
            try:
                status, output = self._container.exec_run([*asker, f"http://127.0.0.1:{self._port}/ping"])
            except docker.errors.APIError:  # the container has just ended
                return None
            text = output.decode(errors="replace").strip()
            if status == 0 and text.isdecimal():
                return int(text) or None
            if asker[0] == "curl" and text == "000":
                return None
        raise Skipped("there is neither Python nor curl in the image to ask from inside")

    def close(self) -> None:
        import docker

        try:
            self._container.remove(force=True, v=True)
        except docker.errors.NotFound:
            return

    def _published(self) -> int:
        self._container.reload()
        bound: Sequence[dict[str, str]] = self._container.attrs["NetworkSettings"]["Ports"].get(f"{self._port}/tcp") or ()
        if not bound:
            raise HeadwayError(f"the container ended at once, with status {self.exit_status()}: {self.log().strip()[-200:]}")
        return int(bound[0]["HostPort"])
