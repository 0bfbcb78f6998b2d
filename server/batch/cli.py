"""`headway run-batch`: an OpenAI batch file through a server of its own, or one that runs."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headway.server.batch.lines import check_lines, read_lines
from headway.server.batch.results import ResultFile
from headway.server.batch.run import Tally, run
from headway.server.errors import ConfigError
from headway.server.remote.endpoint import KEY_NAMES, Endpoint, running_at, started
from headway.server.words import plural

_DESCRIPTION = "Runs an OpenAI batch file. Options that are not listed here are those of `headway serve`, for the server that it starts."
_EPILOG = f"With --url: an API key is taken from {', '.join(KEY_NAMES)}."


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns 0 if every request of the file is answered, 1 if some failed, now or before. Raises ConfigError, ServerUnreachable."""
    options, serve_words = _parser().parse_known_args(list(argv))
    if options.url and serve_words:
        raise ConfigError([f"{serve_words[0]}: with --url no server is started, so there are no options for one"])
    console = Console(stderr=True)
    with _local(options.input_file) as source, _uploaded(options.output_file, options) as target:
        custom_ids = check_lines(source)
        with ResultFile(target, resumes=options.resume, overwrites=options.overwrite) as results:
            before = [results.finished[custom_id] for custom_id in custom_ids if custom_id in results.finished]
            tally = Tally(before.count(True), before.count(False))
            if len(before) < len(custom_ids):
                server = nullcontext(running_at(options.url, environ)) if options.url else _own(serve_words, environ, console)
                with server as endpoint:
                    _run(options, source, results, endpoint, tally, len(custom_ids), console)
    console.print(f"{plural(tally.num_answered, 'answer')}, {plural(tally.num_failed, 'failure')}: {options.output_file}")
    return 1 if tally.num_failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headway run-batch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("-i", "--input-file", required=True, help="JSON lines of custom_id, url and body: a path or an http(s) URL")
    parser.add_argument("-o", "--output-file", required=True, help="where results go: a path, or an http(s) URL that takes a PUT")
    found = parser.add_mutually_exclusive_group()
    found.add_argument("--resume", action="store_true", help="go on where the results in the output file end")
    found.add_argument("--overwrite", action="store_true", help="begin anew, whatever the output file holds")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--max-concurrency", type=_count, default=256, help="requests open at a time")
    parser.add_argument("--max-attempts", type=_count, default=8, help="times that a request is sent which the server can't answer now")
    parser.add_argument("--timeout", type=float, help="seconds for one answer; without it there is no limit")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 100000, not {text!r}")
    return int(text)


@contextmanager
def _own(words: Sequence[str], environ: Mapping[str, str], console: Console) -> Iterator[Endpoint]:
    with ExitStack() as stack:
        with console.status("Starting the server"):
            endpoint = stack.enter_context(started(words, environ))
        yield endpoint


def _run(
    options: argparse.Namespace, source: Path, results: ResultFile, endpoint: Endpoint, tally: Tally, total: int, console: Console
) -> None:
    """Makes the requests that have no result yet, and adds to ``tally``."""
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("requests", total=total, completed=tally.num_answered + tally.num_failed)
        asyncio.run(
            run(
                (line for line in read_lines(source) if line.custom_id not in results.finished),
                endpoint,
                results,
                tally,
                max_concurrency=options.max_concurrency,
                max_attempts=options.max_attempts,
                timeout_s=options.timeout,
                on_result=lambda: progress.advance(task),
            )
        )


@contextmanager
def _local(name: str) -> Iterator[Path]:
    """The input as a file of this machine."""
    if not _is_url(name):
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="headway-") as directory:
        path = Path(directory) / "input.jsonl"
        try:
            with httpx2.stream("GET", name, follow_redirects=True) as response, path.open("wb") as file:
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    file.write(chunk)
        except httpx2.HTTPError as error:
            raise ConfigError([f"the input file {name} can't be fetched: {error}"]) from error
        yield path


@contextmanager
def _uploaded(name: str, options: argparse.Namespace) -> Iterator[Path]:
    """Where results are written on this machine; at the end they go to ``name`` if that is a URL."""
    if not _is_url(name):
        yield Path(name)
        return
    if options.resume or options.overwrite:
        raise ConfigError(["--resume and --overwrite are for an --output-file on this machine"])
    with tempfile.TemporaryDirectory(prefix="headway-") as directory:
        path = Path(directory) / "output.jsonl"
        yield path
        try:
            with path.open("rb") as file:
                httpx2.put(name, content=file, timeout=None).raise_for_status()
        except httpx2.HTTPError as error:
            kept = Path(tempfile.mkdtemp(prefix="headway-results-")) / path.name
            path.replace(kept)
            raise ConfigError([f"the results can't be sent to {name} ({error}); they are in {kept}"]) from error


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))
