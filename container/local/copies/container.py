"""Copies that are containers of a Docker engine, started as the platform starts them: `docker run IMAGE serve`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headway.container.docker_engine import connect, owner, remove, sweep, told
from headway.container.local.copies.base import ADAPTERS_DIRECTORY, ADDITIONAL_DIRECTORY, MODEL_DIRECTORY, Copy, CopyFailed, CopySpec
from headway.container.local.copies.log import CopyLog
from headway.server.bench.server_process import free_port

if TYPE_CHECKING:
    from docker.models.containers import Container

_PORT = 8080
_SHM_BYTES = 64 * 1024 * 1024  # what endpoints have, and can't be told to have more of
_LABEL = "headway.local"  # its value is docker_engine.owner
_API_PATIENCE_S = 120


class ContainerStarter:
    """``image`` stands for every Image that the engine hasn't got. Raises HeadwayError without the library or an engine."""

    def __init__(self, machine: Mapping[str, str], image: str | None = None) -> None:
        self._client = connect(machine, _API_PATIENCE_S, ", or use --process or --url")
        self._stand_in = image
        self._has_bridge = bool(self._client.networks.list(names=["bridge"]))

    async def start(self, spec: CopySpec, gpus: Sequence[str], log: CopyLog) -> Copy:
        made = asyncio.ensure_future(asyncio.to_thread(self._run, spec, gpus))
        try:
            container, url = await asyncio.shield(made)
        except asyncio.CancelledError:
            with contextlib.suppress(CopyFailed):  # a thread can't be cancelled: what it makes is taken away again
                await asyncio.to_thread(remove, (await made)[0])
            raise
        return _Container(container, url, log)

    async def sweep(self) -> int:
        return await asyncio.to_thread(sweep, self._client, _LABEL)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def _run(self, spec: CopySpec, gpus: Sequence[str]) -> tuple[Container, str]:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        image = self._image_for(spec.image)
        port = _PORT if self._has_bridge else free_port()
        lost = (DockerException, RequestException)  # the library lets the latter through where the engine is gone or too slow
        try:
            container = self._client.containers.create(image, list(spec.words), **self._options(spec, gpus, port))
        except lost as problem:
            raise CopyFailed(f"The engine can't make a container of {image}: {told(problem)}.") from problem
        try:
            container.start()
            return container, f"http://127.0.0.1:{self._published(container) if self._has_bridge else port}"
        except BaseException as problem:
            remove(container)
            if isinstance(problem, lost):
                raise CopyFailed(f"The engine can't start a container of {image}: {told(problem)}.") from problem
            raise

    def _options(self, spec: CopySpec, gpus: Sequence[str], port: int) -> dict[str, Any]:
        from docker.types import DeviceRequest

        mounts = {
            MODEL_DIRECTORY: spec.model_directory,
            ADDITIONAL_DIRECTORY: spec.additional_directory,
            ADAPTERS_DIRECTORY: spec.adapters_directory,
        }
        options: dict[str, Any] = {
            "environment": dict(spec.environ),
            "labels": {_LABEL: owner(os.getpid())},
            "volumes": [f"{host}:{inside}:ro" for inside, host in mounts.items() if host is not None],
            "shm_size": _SHM_BYTES,
        }
        if gpus:
            options["device_requests"] = [DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])]
        if self._has_bridge:
            return {**options, "ports": {f"{_PORT}/tcp": ("127.0.0.1", None)}}
        # On the machine's own network, all interfaces would be more than the loopback port that others get.
        environ = {"SM_VLLM_HOST": "127.0.0.1", **spec.environ, "SAGEMAKER_BIND_TO_PORT": str(port)}
        return {**options, "network_mode": "host", "environment": environ}

    def _image_for(self, named: str | None) -> str:
        from docker.errors import DockerException, ImageNotFound
        from requests.exceptions import RequestException

        for image in filter(None, (named, self._stand_in)):
            try:
                self._client.images.get(image)
            except ImageNotFound:
                continue
            except (DockerException, RequestException) as problem:
                raise CopyFailed(f"The engine can't be asked for {image}: {told(problem)}.") from problem
            return str(image)
        wanted = " nor ".join(filter(None, (named, self._stand_in))) or "an image"
        raise CopyFailed(f"The engine has not {wanted}: pull or build it, or name one that it has with --image.")

    def _published(self, container: Container) -> str:
        """The loopback port that the engine chose. A container that has ended already has none: any is as dead."""
        container.reload()
        ports = container.attrs["NetworkSettings"]["Ports"].get(f"{_PORT}/tcp")
        return str(ports[0]["HostPort"]) if ports else str(_PORT)


class _Container:
    def __init__(self, container: Container, url: str, log: CopyLog) -> None:
        self.url = url
        self._container = container
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        threading.Thread(target=self._follow, args=(log,), daemon=True, name=f"copy-{container.short_id}").start()

    def adapter_source(self, name: str) -> str:
        return f"{ADAPTERS_DIRECTORY}/{name}"

    async def ended(self) -> str:
        return f"exited with status {await asyncio.shield(self._status)}"

    async def stop(self, patience_s: float) -> None:
        try:
            await asyncio.to_thread(_signal, self._container, "SIGTERM")
            await asyncio.wait([self._status], timeout=patience_s)
        finally:
            await asyncio.shield(asyncio.to_thread(remove, self._container))
            await asyncio.shield(self._status)

    def _follow(self, log: CopyLog) -> None:
        """In a thread of its own: the engine's log until it ends, then how the container ended."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        status = -1
        with contextlib.suppress(DockerException, RequestException):  # an engine that goes away ends its copies, as far as we can see
            with contextlib.closing(self._container.logs(stream=True, follow=True)) as output:
                for data in output:
                    log.write(data)
            status = int(self._container.wait(timeout=_API_PATIENCE_S)["StatusCode"])
        with contextlib.suppress(RuntimeError):  # the loop is closed: the runtime has ended
            self._loop.call_soon_threadsafe(self._set_status, status)

    def _set_status(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)


def _signal(container: Container, name: str) -> None:
    from docker.errors import APIError
    from requests.exceptions import RequestException

    with contextlib.suppress(APIError, RequestException):  # it has ended, or the engine has
        container.kill(name)
