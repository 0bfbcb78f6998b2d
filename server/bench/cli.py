"""The options of `headway bench serve` and `headway bench engine`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from headway.server.bench.errors import BenchError


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Runs a benchmark; returns 0, or 1 if anything failed. argparse exits with 2 for options that can't be used. Raises
    HeadwayError, one sentence, for what keeps the benchmark from running.

    ``environ`` is where API keys are looked up; a key never comes by argv, where every user of the machine can read it.
    """
    options = _parser().parse_args(list(argv))
    console = Console()
    if options.command == "serve":
        try:
            from headway.server.bench.serve import bench_serve
        except ModuleNotFoundError as missing:
            if missing.name != "aiohttp":
                raise
            raise BenchError("`headway bench serve` needs aiohttp: pip install 'headway[bench]'.") from missing
        return bench_serve(options, environ or {}, console)
    from headway.server.bench.engine import bench_engine

    return bench_engine(options, environ or {}, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway bench", description="Measure a server over HTTP, or the engine alone.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands.add_parser("serve", help="any OpenAI-compatible server", formatter_class=_Help))
    _add_engine(commands.add_parser("engine", help="Headway's engine without HTTP", formatter_class=_Help))
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    pass


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "An API key is taken from HEADWAY_BENCH_API_KEY or OPENAI_API_KEY."
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the server is, with or without /v1")
    parser.add_argument("--model", help="model name in the requests; without it the first that the server lists")
    parser.add_argument("--endpoint", choices=("completions", "chat"), default="completions", help="route to measure")
    parser.add_argument("--request-rate", type=_rate, default=math.inf, help="Poisson arrivals a second; inf: all at once")
    parser.add_argument("--concurrency", type=_positive, help="the most requests open at a time; without it no limit")
    parser.add_argument("--tokenizer", help="a tokenizer.json for prompts of exact length; without it words are calibrated by usage")
    parser.add_argument("--timeout", type=_seconds, default=900.0, help="seconds until a request counts as failed")
    _add_shape(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Options behind -- go to the engine, named as for `headway serve`."
    parser.add_argument("--model", default="demo", help="what `headway serve` takes: demo, a Hub id, a directory, a .gguf file")
    parser.add_argument("--concurrency", type=_positive, help="the most requests in the engine at a time; without it all")
    parser.add_argument("engine_options", nargs="*", default=[], help="options of `headway serve`, behind --")
    _add_shape(parser)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-prompts", type=_positive, default=64, help="requests to send")
    parser.add_argument("--input-len", type=_positive, default=128, help="prompt tokens a request, behind the shared prefix")
    parser.add_argument("--output-len", type=_positive, default=64, help="the most tokens to generate a request")
    parser.add_argument("--prefix-len", type=_count, default=0, help="tokens at the start that all prompts share")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals; the same one twice meets a warm prefix cache")
    parser.add_argument("--temperature", type=_temperature, default=0.0, help="sampling temperature; 0 is greedy")
    parser.add_argument("--ignore-eos", action=argparse.BooleanOptionalAction, default=True, help="generate to --output-len in any case")
    parser.add_argument("--warmup", type=_count, default=1, help="requests before the measurement")
    parser.add_argument("--json", metavar="FILE", help="also write the result here")


def _positive(text: str) -> int:
    return _whole(text, 1)


def _count(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, not {text!r}")
    return int(text)


def _rate(text: str) -> float:
    return _real(text, "a number above 0, or inf", lambda value: value > 0)


def _seconds(text: str) -> float:
    return _real(text, "seconds above 0", lambda value: 0 < value < math.inf)


def _temperature(text: str) -> float:
    return _real(text, "a number from 0 on", lambda value: 0 <= value < math.inf)


def _real(text: str, wanted: str, is_good: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_good(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")
    return value
