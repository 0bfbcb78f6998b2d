"""Who may call: programs of this machine, and no web page. A call makes processes and containers, and a browser reaches loopback.

A page's own requests carry Origin or Sec-Fetch-Site. A page whose name was made to lead to this machine (DNS rebinding) looks like the
same origin, but names itself in Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

# Names below these are never public ones: nobody out there can have one lead here. Not .local: any neighbour answers for those.
_PRIVATE_SUFFIXES = (".localhost", ".internal")


def refusal(headers: Mapping[str, str], own_name: str = "") -> str | None:
    """Why a call is not answered, None if it is. ``headers`` has lower-case names; ``own_name`` is what `--host` says."""
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        return "Web pages are not answered: whoever calls can start processes and containers. Call from a program."
    host = headers.get("host", "")
    if host and not _is_ours(host, own_name):
        return "The Host of this call is no name of this machine. Call an address, localhost, or the name that --host gives."
    return None


@lru_cache(maxsize=64)  # the same for all calls of a client, and 4 us each
def _is_ours(host: str, own_name: str) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if not name:
        return False
    if name == own_name.lower() or name.endswith(_PRIVATE_SUFFIXES):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name  # a container's name, a machine's: no page has one without a dot
    return True
