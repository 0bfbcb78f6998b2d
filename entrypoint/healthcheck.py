"""The image's HEALTHCHECK, also `headway health`: asks the server of this container on /ping. Standard library only, and little of it."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

TIMEOUT_S = 2.0  # as SageMaker gives /ping
_DEFAULT_PORT = 8080
_MAX_ANSWER_BYTES = 64 * 1024
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def main(environ: Mapping[str, str], proc: Path = Path("/proc")) -> int:
    """Exit status 0 if the server is ready, else 1; one line with the reason either way."""
    host, port = find_server(environ, proc)
    is_ready, reason = ask(host, port)
    sys.stdout.write(f"{'ready' if is_ready else 'not ready'}: {_printable(reason)}\n")
    return 0 if is_ready else 1


def find_server(environ: Mapping[str, str], proc: Path) -> tuple[str, int]:
    """(host, port) from the command line of the running server, process 1 first, else from the environment."""
    words = _server_words(proc)
    host = _flag(words, "host") or _variable(environ, "SM_HOST", "SM_VLLM_HOST")
    port = (
        _flag(words, "port")
        or _in_config_file(_flag(words, "config"))
        or _variable(environ, "SM_PORT", "SM_VLLM_PORT", "SAGEMAKER_BIND_TO_PORT")
    )
    return _EVERYWHERE.get(host, host), int(port) if port.isdigit() else _DEFAULT_PORT


def ask(host: str, port: int, timeout_s: float = TIMEOUT_S) -> tuple[bool, str]:
    """(whether GET /ping is answered 200, what there is to say), within ``timeout_s`` whatever the other side does."""
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}/ping"
    try:
        answer = _exchange(host, port, time.monotonic() + timeout_s)
    except TimeoutError:
        return False, f"{where} gave no answer within {timeout_s:g} s"
    except OSError as problem:
        return False, f"{where}: {problem.strerror or problem}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if status is None:
        return False, f"{where} did not answer in HTTP"
    if status[1] == b"200":
        return True, where
    return False, f"{where} answered {status[1].decode()}: {_reason(body)}"


def _exchange(host: str, port: int, deadline: float) -> bytes:
    request = f"GET /ping HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    answer = b""
    with socket.create_connection((host, port), timeout=_left(deadline)) as connection:
        connection.sendall(request.encode())
        while len(answer) < _MAX_ANSWER_BYTES:
            connection.settimeout(_left(deadline))
            if not (piece := connection.recv(4096)):
                break
            answer += piece
    return answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(body: bytes) -> str:
    import json

    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or "no reason given"


def _printable(text: str) -> str:
    """In one line, and without what steers a terminal: a reason may quote names out of a model."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _server_words(proc: Path) -> Sequence[str]:
    """The words behind `serve` of a running server, empty if there is none."""
    for path in _command_lines(proc):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # has ended, or is not ours to read
            continue
        is_ours = "headway.server.cli" in words or any(word.endswith("/headway") for word in words[:2])
        if is_ours and "serve" in words:
            return words[words.index("serve") + 1 :]
    return ()


def _command_lines(proc: Path) -> Iterator[Path]:
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        yield proc / str(pid) / "cmdline"


def _flag(words: Sequence[str], name: str) -> str:
    """The value of the last `--name=value` or `--name value`, else empty."""
    found = ""
    for word, following in pairwise([*words, ""]):
        if word.startswith(f"--{name}="):
            found = word.partition("=")[2]
        elif word == f"--{name}":
            found = following
    return found


def _in_config_file(path: str) -> str:
    """The port in a --config file that holds it in the usual way, a line of its own; else empty."""
    try:
        text = Path(path).read_text() if path else ""
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^port\s*:\s*[\"']?(\d+)", text, re.MULTILINE)
    return found[1] if found else ""


def _variable(environ: Mapping[str, str], *names: str) -> str:
    """The first that is set, without blanks and the quotes of json.dumps."""
    return next((text for name in names if (text := environ.get(name, "").strip().strip("\"'").strip())), "")


if __name__ == "__main__":
    sys.exit(main(os.environ))
