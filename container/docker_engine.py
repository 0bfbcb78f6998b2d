"""The Docker engine that the environment names (DOCKER_HOST, a context of docker's): the way to it, its words when it refuses,
and what a program that was killed left there."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

import psutil

from headway.server.errors import HeadwayError
from headway.server.say import one_line
from headway.server.words import cut

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

_MOST_SHOWN = 300
# A clock that is set moves what processes say of their beginning; no id is used again as soon as this by a program of ours.
_CLOCK_STEP_S = 300


def connect(environ: Mapping[str, str], timeout_s: float, otherwise: str = "") -> DockerClient:
    """A client of an engine that answers. ``otherwise`` ends the sentence if none does: what else a user could do.

    Raises HeadwayError without the library or an engine.
    """
    try:
        import docker
    except ImportError as error:
        raise HeadwayError("the Docker SDK is not installed: pip install 'headway[toolkit]'") from error
    try:
        return docker.from_env(environment=dict(environ), timeout=timeout_s)  # asks for the engine's version
    except docker.errors.DockerException as error:
        raise unreachable(error, otherwise) from error


def unreachable(error: Exception, otherwise: str = "") -> HeadwayError:
    """The connection failed, with a request of the SDK's or of the library below it."""
    return HeadwayError(f"no Docker engine answers ({told(error)}): start one, or set DOCKER_HOST to where it listens{otherwise}")


def told(error: Exception) -> str:
    """The engine's own words, without the library's around them."""
    return cut(one_line(str(getattr(error, "explanation", None) or error)).strip().rstrip("."), _MOST_SHOWN)


def sweep(client: DockerClient, label: str) -> int:
    """Removes the containers whose ``label`` names an owner that is dead, and returns how many there were."""
    left = [
        container
        for container in client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        if not _is_alive(container.labels[label])
    ]
    for container in left:
        remove(container)
    return len(left)


def remove(container: Container) -> None:
    from docker.errors import APIError
    from requests.exceptions import RequestException

    with contextlib.suppress(APIError, RequestException):  # it is gone, or is going; what an engine keeps, the next sweep finds
        container.remove(force=True, v=True)


def owner(pid: int) -> str:
    """The value of a container's label: where its maker is, the maker's process id and when it began."""
    return f"{_place()}/{pid}@{psutil.Process(pid).create_time():.2f}"


def _place() -> str:
    """Whose process ids they are: an engine may be shared by machines, by containers that have its socket, and by users."""
    with contextlib.suppress(OSError):
        return f"{platform.node()}/{os.readlink('/proc/self/ns/pid')}/{os.getuid()}"
    return f"{platform.node()}/{os.getuid()}"


def _is_alive(label: str) -> bool:
    """Process ids are used again: the time when the process began says whether it is still the same. One of elsewhere counts as alive."""
    place, _, process = label.rpartition("/")
    pid, _, began = process.partition("@")
    if place != _place() or not pid.isdecimal():
        return True
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(began)) < _CLOCK_STEP_S
    except ValueError:
        return True
    except psutil.NoSuchProcess:
        return False
