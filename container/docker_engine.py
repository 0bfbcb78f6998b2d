"""The Docker engine that the environment names (DOCKER_HOST, a context of docker's): the way to it, and its words when it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headway.server.errors import HeadwayError
from headway.server.say import one_line
from headway.server.words import cut

if TYPE_CHECKING:
    from docker import DockerClient

_MOST_SHOWN = 300


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
