"""The server that a command of ours talks to: one that runs somewhere, or one of its own that it starts and stops."""

from __future__ import annotations

import hashlib
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from headway.server.bench.server_process import ServerFailed, ServerProcess, free_port
from headway.server.errors import ConfigError, HeadwayError

KEY_NAMES = ("HEADWAY_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY")
_LONGEST_START_S = 2 * 3600.0  # a model of hundreds of gigabytes may have to be fetched
# Where a server of ours listens, and for whom, is not the user's affair.
_OUR_OPTIONS = ("host", "port", "uds", "root-path", "api-key", "api-key-file", "ssl-")


class ServerUnreachable(HeadwayError):
    """Nobody answers at the address, or what answers is no server of this kind."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``url`` is without /v1 and without a slash at its end."""

    url: str
    api_key: str | None

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def first_model(self) -> str:
        """The first name that the server lists. Raises ServerUnreachable."""
        try:
            response = httpx2.get(f"{self.url}/v1/models", headers=self.headers, timeout=10)
            response.raise_for_status()
            return str(response.json()["data"][0]["id"])
        except httpx2.HTTPStatusError as error:
            hint = f"; set {KEY_NAMES[0]} to its API key" if error.response.status_code == 401 else ""
            raise ServerUnreachable(f"{self.url}/v1/models answers {error.response.status_code}{hint}.") from error
        except httpx2.HTTPError as error:
            raise ServerUnreachable(f"No server answers at {self.url}: {str(error) or type(error).__name__}.") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ServerUnreachable(f"{self.url}/v1/models answers with something else than a list of models.") from error


def running_at(url: str, environ: Mapping[str, str]) -> Endpoint:
    """``url`` with or without /v1; the key stands in the environment, since argv can be read by everybody. Raises ConfigError."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError([f"--url must begin with http:// or https://, got {url!r}"])
    api_key = next((environ[name] for name in KEY_NAMES if environ.get(name)), None)
    return Endpoint(url.rstrip("/").removesuffix("/v1"), api_key)


@contextmanager
def started(options: Sequence[str], environ: Mapping[str, str]) -> Iterator[Endpoint]:
    """A server with ``options`` of `headway serve`, ready, on a free loopback port; ended on exit.

    It takes one key that only this process knows: other users of the machine reach the port too. Raises ConfigError, ServerUnreachable.
    """
    if taken := [word for word in options if _name(word).startswith(_OUR_OPTIONS)]:
        raise ConfigError([f"{taken[0].partition('=')[0]} can't be set here: the command starts a server for itself alone"])
    key, port = secrets.token_urlsafe(32), free_port()
    with tempfile.TemporaryDirectory(prefix="headway-") as directory:
        key_file = Path(directory) / "key"
        key_file.write_text(f"sha256:{hashlib.sha256(key.encode()).hexdigest()}\n")
        listens = ["--host", "127.0.0.1", "--port", str(port), "--api-key-file", str(key_file)]
        argv = [sys.executable, "-m", "headway.server.cli", "serve", *options, *listens]
        with ServerProcess(argv, _without_ours(environ), f"http://127.0.0.1:{port}") as server:
            try:
                server.wait_ready(_LONGEST_START_S)
            except ServerFailed as error:
                raise ServerUnreachable(f"The server did not start: {error}") from error
            yield Endpoint(server.url, key)


def _name(word: str) -> str:
    """`port` of `--port=1`; empty for what is no option."""
    return word.removeprefix("--").partition("=")[0].replace("_", "-") if word.startswith("--") else ""


def _without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would make the server listen elsewhere."""
    return {name: value for name, value in environ.items() if not name.endswith(("_UDS", "_ROOT_PATH")) and "_SSL_" not in name}
