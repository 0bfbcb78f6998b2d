"""The Docker engine, through its API: what an image is, its layers, and the push."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from headway.container.docker_engine import connect, told, unreachable
from headway.server.errors import HeadwayError
from headway.server.say import one_line
from headway.server.words import cut

_PIECE_BYTES = 1024**2
_TIMEOUT_S = 600  # between two words of the engine: it says nothing while it reads a large layer


@dataclass(frozen=True, slots=True)
class Image:
    """What the engine knows of an image. ``identity`` is the digest of its configuration (of its manifest, with containerd's store)."""

    name: str
    identity: str
    platform: str
    num_bytes: int
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config.get("Labels") or {}


@dataclass(frozen=True, slots=True)
class Login:
    """A registry's own; the password is in no text made of this."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a layer is, in bytes."""

    layer: str
    completed: int
    total: int


class Engine:
    """The engine that the environment names (DOCKER_HOST, a context of docker's). Raises HeadwayError throughout."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._client = connect(environ, _TIMEOUT_S)
        if problem := clear_text_problem(str(self._client.api.base_url)):
            raise HeadwayError(problem)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def image(self, name: str) -> Image:
        with _sentences(f"asked for the image {name}", missing=f"the engine has no image {name}; `docker image ls` lists what it has"):
            found = self._client.images.get(name)
            facts = found.attrs
            platform = f"{facts.get('Os')}/{facts.get('Architecture')}"
            return Image(name, str(found.id), platform, int(facts.get("Size") or 0), facts.get("Config") or {}, found.history())

    def saved(self, image: Image) -> Iterator[bytes]:
        """The image as a tar archive, as `docker save` writes it."""
        with _sentences(f"asked for the layers of {image.name}"):
            yield from self._client.images.get(image.identity).save(chunk_size=_PIECE_BYTES)

    def push(self, image: Image, repository: str, tag: str, login: Login, on_progress: Callable[[Progress], None]) -> str:
        """Returns the digest that the registry has it under."""
        with _sentences(f"told to push {repository}:{tag}"):
            self._client.api.tag(image.identity, repository, tag)
            login_header = {"username": login.user, "password": login.password}
            events = self._client.api.push(repository, tag, stream=True, decode=True, auth_config=login_header)
            digest = ""
            for event in events:
                if "error" in event:
                    raise HeadwayError(f"the push of {repository}:{tag} was refused: {cut(one_line(str(event['error'])), 300)}")
                digest = str((event.get("aux") or {}).get("Digest") or digest)
                detail = event.get("progressDetail") or {}
                if event.get("id") and detail.get("total"):
                    on_progress(Progress(str(event["id"]), int(detail.get("current") or 0), int(detail["total"])))
        if not digest:
            raise HeadwayError(f"the push of {repository}:{tag} ended without a digest; look at the engine's log")
        return digest


def clear_text_problem(url: str) -> str | None:
    """Why an engine at ``url`` is not to be given a password; None if it may be."""
    where = urlsplit(url)
    if where.scheme != "http" or _is_loopback(where.hostname or ""):
        return None
    return (
        f"the Docker engine at {where.hostname} is reached without TLS, and the registry's password would cross the network in the "
        "clear; use DOCKER_HOST=ssh://..., or DOCKER_TLS_VERIFY=1 with certificates"
    )


@contextmanager
def _sentences(what: str, missing: str | None = None) -> Iterator[None]:
    """The SDK's errors, and those of the connection below it, as sentences."""
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.NotFound as error:
        raise HeadwayError(missing or f"the Docker engine, {what}, answers: {told(error)}") from error
    except docker.errors.APIError as error:
        raise HeadwayError(f"the Docker engine, {what}, answers: {told(error)}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise unreachable(error) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
