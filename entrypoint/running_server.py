"""Where the server of this container listens, as its command line, its --config file and the environment say. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

_DEFAULT_PORT = 8080
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_WITH_CERTIFICATE = ("1", "2", "optional", "required")


class RunningServer(NamedTuple):
    """``uds`` is empty without a Unix socket. ``certfile`` is empty without TLS."""

    host: str = "127.0.0.1"
    port: int = _DEFAULT_PORT
    uds: str = ""
    certfile: str = ""
    keyfile: str = ""
    asks_for_certificates: bool = False

    @property
    def url(self) -> str:
        scheme = "https" if self.certfile else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://localhost/ping over {self.uds}" if self.uds else f"{scheme}://{host}:{self.port}/ping"


def find_server(environ: Mapping[str, str], proc: Path) -> RunningServer:
    """From the command line of the running server, process 1 first, else from the environment."""
    directory, words = _server(proc)
    file = _text(directory / _flag(words, "config")) if _flag(words, "config") else ""

    def asked(name: str, *more: str) -> str:
        upper = name.replace("-", "_").upper()
        return _flag(words, name) or _in_file(file, name) or _variable(environ, f"SM_{upper}", f"SM_VLLM_{upper}", *more)

    def path(name: str) -> str:
        return str(directory / asked(name)) if asked(name) else ""

    host, port = asked("host"), asked("port", "SAGEMAKER_BIND_TO_PORT")
    return RunningServer(
        _EVERYWHERE.get(host, host),
        int(port) if port.isdigit() else _DEFAULT_PORT,
        path("uds"),
        path("ssl-certfile"),
        path("ssl-keyfile"),
        asked("ssl-cert-reqs").lower() in _WITH_CERTIFICATE,
    )


def _server(proc: Path) -> tuple[Path, Sequence[str]]:
    """(working directory, words behind `serve`) of a running server; (., nothing) if there is none."""
    for path in _command_lines(proc):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # has ended, or is not ours to read
            continue
        is_ours = "headway.server.cli" in words or any(word.endswith("/headway") for word in words[:2])
        if is_ours and "serve" in words:
            return path.parent / "cwd", words[words.index("serve") + 1 :]
    return Path(), ()


def _command_lines(proc: Path) -> Iterator[Path]:
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        yield proc / str(pid) / "cmdline"


def _flag(words: Sequence[str], name: str) -> str:
    """The value of the last `--name=value` or `--name value`, else empty."""
    found = ""
    for word, following in pairwise([*words, ""]):
        flag, has_value, value = word.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            found = value if has_value else following
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _in_file(text: str, name: str) -> str:
    """What a --config file holds in the usual way, on a line of its own; else empty."""
    key = name.replace("-", "[-_]")
    found = re.search(rf"^{key}\s*:\s+(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s#\"'][^\s#]*))", text, re.MULTILINE)
    return next(filter(None, found.groups()), "") if found else ""


def _variable(environ: Mapping[str, str], *names: str) -> str:
    """The first that is set, without blanks and the quotes of json.dumps."""
    return next((text for name in names if (text := environ.get(name, "").strip().strip("\"'").strip())), "")
