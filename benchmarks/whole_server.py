"""What the server keeps of the engine's throughput: `python benchmarks/whole_server.py`.

The same crowd of requests on random weights in the shape of a real model, through HTTP, tokenizer and streams with `headway bench serve`,
and in the engine alone with `headway bench engine`, each in a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engine_model import write_model, write_tokenizer
from kernel_case import ALL_SHAPES
from rich.console import Console
from rich.table import Table

from headway.server.bench.server_process import ServerProcess, free_port

TARGET = 0.9  # of the engine's tokens a second
_SPARE_TOKENS = 64  # of the context: prompts are a few tokens longer than asked where no words fit
_READY_LIMIT_S = 300.0


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if the server keeps less than TARGET, or a request failed."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory)
        shapes = ALL_SHAPES[options.shapes]
        longest = options.input_len + options.output_len + _SPARE_TOKENS
        write_tokenizer(model, shapes.vocab_size)
        write_model(model, shapes, longest)
        settings = ["--load-format", "dummy", "--dtype", str(shapes.dtype).removeprefix("torch."), "--max-model-len", str(longest)]
        settings += ["--max-num-seqs", str(options.requests), *options.engine_options]
        rounds = [_round(model, settings, options, turn) for turn in range(options.rounds)]
    kept = median(server["output_tokens_per_s"] / engine["output_tokens_per_s"] for engine, server in rounds)
    _print(rounds, options, kept)
    if options.json:
        record = {"options": {name: value for name, value in vars(options).items() if name != "json"}, "rounds": rounds, "kept": kept}
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n")
    return 0 if kept >= options.target and not any(result["num_errors"] for pair in rounds for result in pair) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="The whole server beside the engine alone.",
        epilog="Options behind -- go to both, named as for `headway serve`.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--shapes", choices=sorted(ALL_SHAPES.keys() - {"tiny"}), default="llama-8b", help="the model's sizes")
    parser.add_argument("--requests", type=int, default=256, help="open at once")
    parser.add_argument("--num-prompts", type=int, help="in all; without it twice as many as are open at once")
    parser.add_argument("--input-len", type=int, default=1024, help="tokens of their prompts")
    parser.add_argument("--output-len", type=int, default=256, help="tokens of their answers")
    parser.add_argument("--rounds", type=int, default=1, help="each in the other order than the one before; the median counts")
    parser.add_argument("--target", type=float, default=TARGET, help="the part of the engine's throughput that the server must keep")
    parser.add_argument("--json", metavar="FILE", help="where the figures go too")
    parser.add_argument("engine_options", nargs="*", default=[], help="options of `headway serve`, behind --")
    return parser


def _round(model: Path, settings: Sequence[str], options: argparse.Namespace, turn: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(engine, server), as `headway bench` reports them."""
    crowd = ["--concurrency", str(options.requests), "--num-prompts", str(options.num_prompts or 2 * options.requests)]
    crowd += ["--input-len", str(options.input_len), "--output-len", str(options.output_len)]
    if turn % 2 == 0:
        engine = _bench(["engine", "--model", str(model), *crowd], ["--", *settings])
        return engine, _serve(model, settings, crowd)
    server = _serve(model, settings, crowd)
    return _bench(["engine", "--model", str(model), *crowd], ["--", *settings]), server


def _serve(model: Path, settings: Sequence[str], crowd: Sequence[str]) -> dict[str, Any]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "headway.server.cli", "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with ServerProcess([*argv, "--disable-uvicorn-access-log", *settings], os.environ, url) as server:
        server.wait_ready(_READY_LIMIT_S)
        return _bench(["serve", "--url", url, "--tokenizer", str(model / "tokenizer.json"), *crowd], [])


def _bench(words: Sequence[str], last: Sequence[str]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        argv = [sys.executable, "-m", "headway.server.cli", "bench", *words, "--json", file.name, *last]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        record = Path(file.name).read_text()
    if not record:
        sys.exit(f"headway bench {words[0]} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(record)["result"]
    return result


def _print(rounds: Sequence[tuple[dict[str, Any], dict[str, Any]]], options: argparse.Namespace, kept: float) -> None:
    title = f"{options.shapes}, {options.requests} requests at once, {options.input_len} in, {options.output_len} out"
    table = Table(title=title, title_justify="left")
    for name in ("", "output tokens/s", "TTFT p50 ms", "TPOT p50 ms", "failed"):
        table.add_column(name, justify="left" if not name else "right")
    for pair in rounds:
        for name, result in zip(("engine alone", "whole server"), pair, strict=True):
            times = [f"{result[key]['p50']:.1f}" for key in ("ttft_ms", "tpot_ms")]
            table.add_row(name, f"{result['output_tokens_per_s']:.0f}", *times, str(result["num_errors"]))
    Console().print(table)
    print(f"the server keeps {kept:.1%} (at least {options.target:.0%})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
