"""How servers are named: the address of one, or where to ask which there are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from headway.server.words import cut

_LONGEST_URL = 200
_GOOD_URL = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+(%[a-z0-9._-]+)?\])(:[0-9]{1,5})?/?", re.IGNORECASE)
DNS, KUBERNETES, RAY = "dns", "kubernetes", "ray-actors"
_DIRECTORY = re.compile(rf"({DNS}|{KUBERNETES}|{RAY})://.*", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\.?", re.IGNORECASE)
_RAY_NAMESPACE = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class Directory:
    """Where to ask which servers there are. ``kind``: DNS, KUBERNETES or RAY; ``port``: None where the answer has it."""

    kind: str
    name: str
    port: int | None


def is_directory(address: str) -> bool:
    """Whether it is one of those that stand for all servers that are found there."""
    return _DIRECTORY.fullmatch(address) is not None


def directory_of(address: str) -> Directory:
    """Raises ValueError with what is wrong with it."""
    kind, _, rest = address.partition("://")
    if (kind := kind.lower()) == RAY:
        if not _RAY_NAMESPACE.fullmatch(rest):
            raise ValueError(f"write {RAY}://NAMESPACE; got {_shown(address)}")
        return Directory(kind, rest, None)
    name, colon, port = rest.rstrip("/").partition(":")
    number = int(port) if port.isdecimal() and len(port) < 6 else 0
    is_name = _NAME.fullmatch(name) is not None and (kind == DNS or name.count(".") < 2)
    if not is_name or (colon and not 0 < number < 65536) or (kind == DNS and not colon):
        form = f"{DNS}://NAME:PORT" if kind == DNS else f"{KUBERNETES}://SERVICE.NAMESPACE:PORT, where the last two may be left out"
        raise ValueError(f"write {form}; got {_shown(address)}")
    return Directory(kind, name.lower(), number or None)


def addresses_problem(addresses: list[str]) -> str | None:
    """What is wrong with a list of servers, or with the one place in it that knows them; None where it is good."""
    if not any(map(is_directory, addresses)):
        return next(filter(None, map(url_problem, addresses)), None)
    if len(addresses) > 1:
        return f"{next(filter(is_directory, addresses))} stands for all servers: leave the other addresses out"
    try:
        directory_of(addresses[0])
    except ValueError as problem:
        return str(problem)
    return None


def url_problem(url: str) -> str | None:
    """What is wrong with a server's address; None where it is good."""
    try:
        parts = urlsplit(url)  # ValueError: an address or a port that there can't be
        if _GOOD_URL.fullmatch(url) and parts.port != 0 and (parts.hostname or "").encode("idna"):
            return None
    except ValueError:  # of idna: a name of empty or endless parts, which no resolver takes
        pass
    return f"a server is http:// or https://, a host and perhaps a port, as http://10.0.0.7:8080; got {_shown(url)}"


def plain_url(url: str) -> str:
    """A good address as it is kept: two spellings of one server are one."""
    return url.rstrip("/").lower()


def distinct(urls: list[str]) -> list[str]:
    return list(dict.fromkeys(map(plain_url, urls)))


def url_at(host: str, port: int) -> str:
    """Of an IP address, as it is found."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _shown(address: str) -> str:
    return repr(cut(address.rpartition("@")[2], _LONGEST_URL))  # what stands before may be a password
