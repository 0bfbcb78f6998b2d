"""Options about browsers: which pages of other origins may call the server (CORS)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from headway.server.config.fields import Topic, option

ANY = "*"
# As browsers write an origin: small letters, no default port, no slash at the end.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_METHOD = re.compile(r"[A-Z]+(?:-[A-Z]+)*", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


class CorsConfig(Topic):
    """Browsers (CORS)."""

    allowed_origins: list[str] = option([], "Origins whose pages may call the server, such as https://a.example; * for all. Default: none.")
    allowed_methods: list[str] = option([ANY], "Methods that such pages may use.")
    allowed_headers: list[str] = option([ANY], "Headers that such pages may send, Authorization among them.")
    allow_credentials: bool = option(False, "Let such pages send cookies and client certificates; not together with * as origin.")


def cors_problems(cors: CorsConfig) -> list[str]:
    found = [
        f"--allowed-origins holds {origin!r}, which is no origin as browsers send it; {_advice(origin)}"
        for origin in cors.allowed_origins
        if origin != ANY and not _is_origin(origin)
    ]
    found += [
        f"--allowed-methods holds {method!r}, which is no method; write them in capitals, as GET, or * for all"
        for method in cors.allowed_methods
        if method != ANY and not _METHOD.fullmatch(method)
    ]
    found += [
        f"--allowed-headers holds {header!r}, which is no header's name; write them as Content-Type, or * for all"
        for header in cors.allowed_headers
        if not _HEADER.fullmatch(header)
    ]
    # Methods and headers may be *: the answers list them by name. An origin that is repeated to everybody would give any page in the
    # world the user's cookies, which is why browsers refuse * there.
    if cors.allow_credentials and ANY in cors.allowed_origins:
        found.append("--allow-credentials can't be used with * in --allowed-origins, because browsers refuse that: list the origins")
    return found


def cors_warnings(cors: CorsConfig) -> list[str]:
    if cors.allowed_origins:
        return []
    asked = {
        "--allow-credentials": cors.allow_credentials,
        "--allowed-methods": cors.allowed_methods != [ANY],
        "--allowed-headers": cors.allowed_headers != [ANY],
    }
    return [f"{flag} is not used: there are no --allowed-origins" for flag, is_asked in asked.items() if is_asked]


def _is_origin(text: str) -> bool:
    if not _ORIGIN.fullmatch(text):
        return False
    scheme, _, rest = text.partition("://")
    port = re.search(r":([0-9]+)$", rest)
    return port is None or (int(port[1]) < 2**16 and int(port[1]) != _DEFAULT_PORTS.get(scheme))


def _advice(text: str) -> str:
    """What to write in the place of ``text``."""
    example = "write it as https://app.example.com, with a scheme, and a port if it is not the scheme's own"
    if text == "null":
        return "any page in a sandbox sends it, whoever wrote that page"
    if "*" in text:
        return "a * stands for all origins and only alone: list each origin by its name"
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return example
    host = f"[{host}]" if host and ":" in host else host
    near = f"{parts.scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(parts.scheme) else "")
    return f"write {near}" if _is_origin(near) else example
