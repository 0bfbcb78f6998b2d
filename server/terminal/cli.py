"""`headway chat` and `headway complete`: a model in the terminal, of a server that runs or of one that the command starts."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console

from headway.server.errors import ConfigError
from headway.server.remote.endpoint import KEY_NAMES, Endpoint, running_at, started
from headway.server.terminal.chat import Conversation
from headway.server.terminal.complete import complete

# Of `headway serve`; of the image and `make serve`.
_PORTS = (8000, 8080)


def main(command: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """``command`` is "chat" or "complete". Raises ConfigError, ServerUnreachable, AnswerFailed."""
    options, serve_words = _parser(command).parse_known_args(list(argv))
    words = [word for word in (options.model, *serve_words) if word]
    screen = Console(highlight=False, soft_wrap=True)
    with _server(options, words, environ) as endpoint:
        name = options.model_name or endpoint.first_model()
        asked = {"max_tokens": options.max_tokens, "temperature": options.temperature}
        fields = {field: value for field, value in asked.items() if value is not None}
        if command == "complete":
            return complete(endpoint, name, fields, options.quick, sys.stdin, screen)
        return Conversation(endpoint, name, fields, options.system_prompt, screen).run(options.quick, sys.stdin)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"headway {command}",
        description="With MODEL a server is started for it, with the options of `headway serve`; without it one that runs is asked.",
        epilog=f"An API key is taken from {', '.join(KEY_NAMES)}.",
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="what `headway serve` takes: demo, a Hub id, a directory, a .gguf file")
    parser.add_argument("--url", help=f"the server that runs, with or without /v1 (default: port {_PORTS[0]} here, or else {_PORTS[1]})")
    parser.add_argument("--model-name", help="which of its models; without it the first")
    parser.add_argument("-q", "--quick", metavar="TEXT", help="ask this once, print the answer, and end")
    parser.add_argument("--max-tokens", type=int, help="the longest answer")
    parser.add_argument("--temperature", type=float, help="0: always the likeliest token; without it the model's own")
    if command == "chat":
        parser.add_argument("--system-prompt", metavar="TEXT", help="what the model is told first")
    return parser


@contextmanager
def _server(options: argparse.Namespace, words: Sequence[str], environ: Mapping[str, str]) -> Iterator[Endpoint]:
    if not words:
        yield running_at(options.url or _url_here(), environ)
        return
    if options.url:
        raise ConfigError([f"{words[0]}: with --url no server is started; leave out one of the two"])
    with ExitStack() as stack:
        with Console(stderr=True).status("Starting the server"):
            endpoint = stack.enter_context(started(words, environ))
        yield endpoint


def _url_here() -> str:
    """Of the first port that somebody listens on, and of the first of all where nobody does."""
    for port in _PORTS:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            continue
        return f"http://127.0.0.1:{port}"
    return f"http://127.0.0.1:{_PORTS[0]}"
