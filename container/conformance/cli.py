"""`headway conformance`: any container against SageMaker's hosting contract."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from headway.container.conformance.check import Check
from headway.container.conformance.engines.base import Engine
from headway.container.conformance.junit import as_junit
from headway.container.conformance.registry import chosen
from headway.container.conformance.report import as_json, markdown_list, print_list, print_results
from headway.container.conformance.result import Result
from headway.container.conformance.run import check_image, check_url
from headway.container.conformance.shapes import shape_of_file
from headway.container.conformance.starts import Starts
from headway.container.conformance.subject import Wishes, checked_url
from headway.container.settings import Settings, add_variable_arguments, read_settings
from headway.server.errors import ConfigError
from headway.server.remote.endpoint import KEY_NAMES

_DESCRIPTION = "Holds a container to SageMaker's hosting contract. A URL is asked only; an image is started, several times, and stopped."
_BAD_VARIABLE = "SM_VLLM_MAX_NUM_SEQS=many"
_STARTUP_TIMEOUT_S = 480.0  # of SageMaker
_KEY_NAMES = (*KEY_NAMES, "SM_VLLM_API_KEY")
_EPILOG = f"The server's API key is taken from {', '.join(_KEY_NAMES)}. Exit status 1: a MUST failed (with --strict a SHOULD, too)."


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Raises ConfigError, HeadwayError."""
    given = _parser().parse_args(list(argv))
    checks = chosen(_names(given.only), _names(given.skip))
    if given.list or given.markdown:
        if given.markdown:
            sys.stdout.write(markdown_list(checks))
        else:
            print_list(checks, Console())
        return 0
    if bool(given.target) == bool(given.command):
        raise ConfigError(["name what to check: one of an address (http://..), an image, or --command"])
    if not checks:
        raise ConfigError(["--only and --skip leave no check"])
    target = given.target or given.command
    with Console(stderr=True).status("") as status:
        results = _results(given, checks, environ, lambda check: status.update(check.id))
    _tell(given, target, results)
    return int(any(result.is_failure if given.strict else result.is_fatal for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway conformance", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("target", nargs="?", metavar="URL|IMAGE", help="http://127.0.0.1:8080, or an image of the Docker engine")
    parser.add_argument("--command", metavar="TEXT", help="a command in the place of an image; `serve` is added to it")
    parser.add_argument("--only", action="append", default=[], metavar="ID,..", help="these checks or topics alone")
    parser.add_argument("--skip", action="append", default=[], metavar="ID,..", help="all but these checks or topics")
    parser.add_argument("--list", action="store_true", help="show the checks, and make none")
    parser.add_argument("--markdown", action="store_true", help="the same as a table of the documentation")
    parser.add_argument("--strict", action="store_true", help="a SHOULD that fails counts, too")
    parser.add_argument("--json", metavar="FILE", help="the results as JSON; - is standard output, without the table")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="the results as JUnit XML")
    about = parser.add_argument_group("the server")
    about.add_argument(
        "--body", type=Path, metavar="FILE", help="a JSON request that /invocations takes, if it is no chat, prompt or input"
    )
    about.add_argument("--adapter", metavar="SRC", help="an adapter to register, as the container sees it: /opt/ml/model/adapters/sql")
    about.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for one answer (default: 60, as SageMaker has it)"
    )
    about.add_argument("--startup-timeout", type=_seconds, metavar="SECONDS", help="until /ping is 200 (default: 480)")
    about.add_argument(
        "--bad-env",
        metavar="NAME=VALUE",
        help=f"a variable that the container must refuse (default: {_BAD_VARIABLE})",
    )
    about.add_argument("--network", choices=("bridge", "host"), help="of an image's containers (default: bridge)")
    about.add_argument("--gpus", action="store_true", help="give an image's containers all GPUs")
    add_variable_arguments(parser)
    parser.set_defaults(words=[])
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 24 * 3600:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def _names(given: Sequence[str]) -> list[str]:
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def _results(given: argparse.Namespace, checks: list[Check], environ: Mapping[str, str], on_check: Callable[[Check], None]) -> list[Result]:
    settings = read_settings(given, environ)
    shape = shape_of_file(given.body) if given.body else None
    known = {**environ, **settings.environ}
    key = next((known[name] for name in _KEY_NAMES if known.get(name)), None)
    wishes = Wishes(key, shape, given.adapter, given.timeout)
    if given.target and given.target.startswith(("http://", "https://")):
        _refuse_container_options(given)
        return check_url(checks, checked_url(given.target), wishes, on_check)
    variable, equals, value = (given.bad_env or _BAD_VARIABLE).partition("=")
    if not variable or not equals:
        raise ConfigError([f"--bad-env must be NAME=VALUE, got {given.bad_env!r}"])
    with Starts(
        _engine(given, settings, environ), settings.environ, wishes, given.startup_timeout or _STARTUP_TIMEOUT_S, (variable, value)
    ) as starts:
        return check_image(checks, starts, wishes, on_check)


def _refuse_container_options(given: argparse.Namespace) -> None:
    options = {
        "-e": given.env,
        "--env-file": given.env_file,
        "--model-dir": given.model_dir,
        "--gpus": given.gpus,
        "--network": given.network,
        "--bad-env": given.bad_env,
        "--startup-timeout": given.startup_timeout,
    }
    if named := [option for option, value in options.items() if value]:
        raise ConfigError([f"{named[0]}: the server at {given.target} runs already; this is for an image or --command"])


def _engine(given: argparse.Namespace, settings: Settings, environ: Mapping[str, str]) -> Engine:
    if given.target:
        from headway.container.conformance.engines.docker import DockerEngine

        return DockerEngine(given.target, given.network or "bridge", settings.model_directory, given.gpus, environ)
    from headway.container.conformance.engines.process import ProcessEngine

    if settings.model_directory or given.gpus or given.network:
        raise ConfigError(["--model-dir, --gpus and --network are for an image; tell a command its model with -e"])
    try:
        words = shlex.split(given.command)
    except ValueError as error:
        raise ConfigError([f"--command {given.command!r} can't be read: {error}"]) from error
    if words[-1:] == ["serve"]:  # the checks say it, or leave it out
        words = words[:-1]
    if not words:
        raise ConfigError(["--command names no program"])
    return ProcessEngine(words, environ)


def _tell(given: argparse.Namespace, target: str, results: list[Result]) -> None:
    try:
        if given.junit:
            given.junit.write_bytes(as_junit(target, results, is_strict=given.strict))
        if given.json and given.json != "-":
            Path(given.json).write_text(as_json(target, results), encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"the report can't be written to {error.filename}: {error.strerror}"]) from error
    if given.json == "-":
        sys.stdout.write(as_json(target, results))
    else:
        print_results(target, results, Console())
