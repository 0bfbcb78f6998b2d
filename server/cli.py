"""The command `headway`, see _USAGE. Imports nothing heavy before the options are valid."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headway import __version__
from headway.server.errors import ConfigError, HeadwayError, ModelSourceError
from headway.server.say import say

# Commands of the toolkit around the image: where each one's main(argv, environ) is.
_TOOLKIT = {
    "check": "headway.container.check.cli",
    "conformance": "headway.container.conformance.cli",
    "local": "headway.container.local.cli",
    "push": "headway.container.push.cli",
    "render": "headway.container.render.cli",
}
_COMMANDS = ("serve", "chat", "complete", "run-batch", "router", "bench", "options", "entrypoint", "health", *_TOOLKIT)
_USAGE = """\
usage: headway COMMAND ...

  serve [MODEL] [options]   serve a model over HTTP; `headway serve --help` lists the options
  chat [MODEL] ...          talk to a model in the terminal: of a server that runs, or of one for MODEL
  complete [MODEL] ...      the same with plain text
  run-batch -i IN -o OUT    answer the requests of an OpenAI batch file
  router --servers URL,...  one address for many servers: balances, retries, streams through
  bench serve|engine ...    measure a server, or the engine alone
  check [--instance TYPE]   what a container would make of its environment and model: options, faults, memory
  render TARGET ...         print what deploys a container: boto3, terraform, cloudformation, compose, kubernetes
  push [--image NAME] ...   build the image, look for secrets in it and push it to ECR
  local --url|--image ...   a local SageMaker runtime: boto3 and OpenAI clients call a container as they call an endpoint
  conformance URL|IMAGE     hold a container, ours or another, to SageMaker's hosting contract
  options [PAGE ...]        print the table of all options, as in docs/options.md, or bring the tables on pages up to date
  entrypoint [serve] ...    what the container image starts: environment variables in, serve out
  health                    ask the server of this machine or container whether it is ready; exit status 0 or 1
  --version                 print the version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for options or a model that can't be used, 1 for other failures."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except ConfigError as error:
        for problem in error.problems:
            say("error", problem)
        return 2
    except HeadwayError as error:
        say("error", str(error))
        return 2 if isinstance(error, ModelSourceError) else 1
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    command, *rest = words or ["--help"]
    # A thread that waits for the others must not spin away the core that they need. With one other busy process on 2 cores a
    # decode step took 1354 ms with libgomp's default, 898 with a count of 50,000, 295 with 10,000, 92 with 300; on a quiet machine
    # the server gave 367 tokens/s at 32 clients with 20,000, 293 with 3,000, 228 with 300 (SmolLM2-135M, bf16, 2026-11).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if command in ("serve", "bench"):
        _fit_threads_to_quota()
    match command:
        case "serve":
            return serve(rest, os.environ)
        case "bench":
            from headway.server.bench.cli import main as bench

            status: int = bench(rest, os.environ)
            return status
        case "run-batch":
            from headway.server.batch.cli import main as run_batch

            return run_batch(rest, os.environ)
        case "router":
            from headway.server.router.cli import main as router

            return router(rest, os.environ)
        case "chat" | "complete":
            from headway.server.terminal.cli import main as terminal

            return terminal(command, rest, os.environ)
        case "options":
            return _document_options(rest)
        case "entrypoint":
            from headway.entrypoint.__main__ import main as entrypoint

            return entrypoint(rest)
        case "health":
            from headway.entrypoint.healthcheck import main as health

            return health(os.environ)
        case "--version" | "version":
            sys.stdout.write(f"headway {__version__}\n")
            return 0
        case "-h" | "--help" | "help":
            sys.stdout.write(_USAGE)
            return 0
    if command in _TOOLKIT:
        import importlib

        from headway.server.signals import interrupt_at_signals

        interrupt_at_signals()
        tool: int = importlib.import_module(_TOOLKIT[command]).main(rest, os.environ)
        return tool
    import difflib

    near = difflib.get_close_matches(command, _COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "`headway --help` lists them"
    raise ConfigError([f"{command}: unknown command; {hint}"])


def _document_options(pages: Sequence[str]) -> int:
    from headway.server.config.doc_tables import docs_table, filled

    if not pages:
        sys.stdout.write(docs_table())
    for page in map(Path, pages):
        try:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        except OSError as error:
            raise ConfigError([f"options: the page {page} can't be brought up to date: {error.strerror}"]) from error
    return 0


def _fit_threads_to_quota() -> None:
    """A quota (`docker run --cpus`) is no affinity: libraries would start a thread for each core of the host, all throttled together."""
    from headway.server.machine import cpu_quota, usable_cores

    if cpu_quota() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def serve(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """`headway serve`: show help or the config, or run the server until it ends."""
    for word in argv:
        if word in ("-h", "--help") or word.startswith("--help="):
            from headway.server.config.show import help_text

            sys.stdout.write(help_text(word.partition("=")[2]))
            return 0
    from headway.server.signals import EarlyStop

    early = EarlyStop()
    early.install()
    from headway.server.config.sources import resolve

    resolved = resolve(argv, environ, fallbacks=_wish_of_terminals(environ))
    for warning in resolved.warnings:
        say("warning", warning, resolved.config.logs.is_json)
    if resolved.show_config:
        from headway.server.config.show import show_config

        sys.stdout.write(show_config(resolved))
        return 0
    if not resolved.config.sagemaker.enable_custom_handlers:  # a script may look for its tokens there
        _hide_secrets_from_children()
    from headway.server.launch import run_server

    return run_server(resolved.config, early)


def _wish_of_terminals(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What NO_COLOR and FORCE_COLOR, which many programs know, mean here. Any text but an empty one counts."""
    for name, wish in (("NO_COLOR", "never"), ("FORCE_COLOR", "always")):
        if environ.get(name):
            return {"log_color": (wish, f"environment {name}")}
    return {}


def _hide_secrets_from_children() -> None:
    """The engine, pip and compilers need none, and what they write of their environment nobody masks."""
    from headway.server.config.environment import secret_variables
    from headway.server.config.sources import all_names

    for name in secret_variables(os.environ, all_names()):
        del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
