"""Streamed tokens and requests per second of all that stands around a model: `python benchmarks/server_path.py --help`.

The API process, the messages, the core and the scheduler are real; the runner is a stub whose step takes as long as one on an accelerator
(modelless_server.py). Client, API process and engine share the machine, so CPU time is told apart, and a figure per CPU second is what
another machine or a busy one can be compared by. Every answer is checked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from front_end_works import MODEL
from rich.console import Console
from server_path_load import CpuSeconds, load
from server_path_works import Checker, Work

from headway.server.bench.machine import CpuMeter, describe_machine
from headway.server.bench.report import Summary, summarize
from headway.server.bench.server_process import ServerProcess, free_port
from headway.server.bench.stub_model import MAX_LEN, write_stub_model

LEAST_TOKENS_PER_S, LEAST_REQUESTS_PER_S = 20_000, 500
_SAMPLES_PER_S = 200
_HEAD = (
    "| work | tokens/s | requests/s | CPU µs a token, server | API | engine | CPU ms a request, server | tokens a CPU second of the server "
    "| client's CPU µs a token | events a token | TTFT p50, p99 ms | between packets p50, p99 ms | others, cores | failed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one work in one round. ``others``: cores that neither server nor client used."""

    work: Work
    round_index: int
    summary: Summary
    num_events: int
    cpu: CpuSeconds
    others: float

    def row(self) -> str:
        summary, cpu = self.summary, self.cpu
        num_tokens, server = max(summary.num_output_tokens, 1), cpu.api + cpu.engine
        cells = (
            self.work.name,
            f"**{summary.output_tokens_per_s:,.0f}**",
            f"**{summary.requests_per_s:,.0f}**",
            f"**{server / num_tokens * 1e6:.1f}**",
            f"{cpu.api / num_tokens * 1e6:.1f}",
            f"{cpu.engine / num_tokens * 1e6:.1f}",
            f"{server / max(summary.num_requests, 1) * 1e3:.2f}",
            f"{num_tokens / max(server, 1e-9):,.0f}",
            f"{cpu.client / num_tokens * 1e6:.1f}",
            f"{self.num_events / num_tokens:.3f}",
            f"{summary.ttft_ms.p50:.1f}, {summary.ttft_ms.p99:.1f}",
            f"{summary.itl_ms.p50:.1f}, {summary.itl_ms.p99:.1f}" if self.work.is_streamed else "-",
            f"{self.others:.2f}",
            str(summary.num_errors),
        )
        return f"| {' | '.join(cells)} |"


def works(options: argparse.Namespace) -> list[Work]:
    streams, tokens, seconds = options.streams, options.tokens, options.seconds
    num_streams = streams * max(1, round(seconds * LEAST_TOKENS_PER_S / tokens / streams))
    num_short = round(seconds * 2 * LEAST_REQUESTS_PER_S)
    return [
        Work(f"chat, {tokens} tokens streamed, {streams} at a time", True, True, tokens, streams, num_streams),
        Work(f"completions, {tokens} tokens streamed, {streams} at a time", False, True, tokens, streams, num_streams),
        Work("chat, 4 tokens streamed, 64 at a time", True, True, 4, 64, num_short),
        Work("completions, 1 token, 64 at a time", False, False, 1, 64, num_short),
    ]


class ServerPathBench:
    def __init__(self, options: argparse.Namespace, directory: Path, console: Console) -> None:
        self.results: list[Result] = []
        self._options = options
        self._console = console
        self._model_dir = directory
        write_stub_model(directory)
        self._checker = Checker(directory)

    def run(self) -> None:
        port = free_port()
        with ServerProcess(self._command(port), os.environ, f"http://127.0.0.1:{port}") as server:
            server.wait_ready(120)
            for round_index in range(self._options.rounds):
                for work in works(self._options):
                    if self._options.only in work.name:
                        self._measure(work, round_index, port, server.pid)

    def _command(self, port: int) -> list[str]:
        options = self._options
        argv = [sys.executable, str(Path(__file__).with_name("modelless_server.py")), str(options.step_ms), "serve", str(self._model_dir)]
        argv += ["--load-format", "dummy", "--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", str(MAX_LEN)]
        argv += ["--max-num-seqs", str(options.streams), "--kv-cache-memory-bytes", "1g", "--disable-uvicorn-access-log"]
        return [*argv, "--host", "127.0.0.1", "--port", str(port), *shlex.split(options.headway_args)]

    def _measure(self, work: Work, round_index: int, port: int, pid: int) -> None:
        requests = work.requests(port)
        uvloop.run(load(port, requests, 2 * work.num_connections, work.num_connections, pid))  # warms up
        sampler = None if self.results else self._sampler(pid)
        meter = CpuMeter(pid)
        done = uvloop.run(load(port, requests, work.num_requests, work.num_connections, pid))
        others = meter.read().others
        if sampler is not None:
            sampler.send_signal(signal.SIGINT)
            sampler.wait()
        outcomes, num_events = self._checker.outcomes(work, done)
        self.results.append(Result(work, round_index, summarize(outcomes, done.wall_s), num_events, done.cpu, others))
        self._console.print(self.results[-1].row(), soft_wrap=True, highlight=False, markup=False)
        for error in self.results[-1].summary.errors:
            self._console.print(f"  {error}", style="red", markup=False, soft_wrap=True)

    def _sampler(self, pid: int) -> subprocess.Popen[bytes] | None:
        """py-spy at the API process, until it is interrupted."""
        if self._options.flame_graph is None:
            return None
        path = Path(self._options.flame_graph)
        argv = ["py-spy", "record", "--function", "--rate", str(_SAMPLES_PER_S), "--duration", "600"]
        argv += ["--pid", str(pid), "--output", path.name]
        # In the picture's own directory: it shows this command.
        return subprocess.Popen(argv, cwd=path.absolute().parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if an answer was wrong, or a target was missed."""
    options = _parser().parse_args(argv)
    console = Console(width=200)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to stop, it stops its server too
    console.print(f"{_machine()}, steps of {options.step_ms:g} ms", _HEAD, sep="\n", soft_wrap=True, highlight=False, markup=False)
    with tempfile.TemporaryDirectory(prefix="headway-server-path-") as directory:
        bench = ServerPathBench(options, Path(directory), console)
        bench.run()
    if options.json:
        Path(options.json).write_text(json.dumps(_record(options, bench.results), indent=1) + "\n")
    problems = _missed(bench.results)
    for problem in problems:
        console.print(problem, style="red", soft_wrap=True, markup=False)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Streamed tokens and requests per second of all that stands around a model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=256, help="open at a time in the works with many tokens")
    parser.add_argument("--tokens", type=int, default=256, help="of each of those streams")
    parser.add_argument("--step-ms", type=float, default=10.0, help="how long the stub's step takes; 0: as fast as it goes")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each work at its target rate")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", metavar="TEXT", help="works that have this in their name")
    parser.add_argument("--headway-args", default="", metavar="ARGS", help="further options of `headway serve`, as one word")
    parser.add_argument("--flame-graph", metavar="FILE.svg", help="of the API process in the first work, by py-spy, which must be in PATH")
    parser.add_argument("--json", metavar="FILE", help="write all figures and the machine here")
    return parser


def _machine() -> str:
    machine = describe_machine()
    return f"{datetime.date.today()}, {machine['cores']} cores of {machine['chip']}, Python {machine['python']}"


def _missed(results: list[Result]) -> list[str]:
    """What was asked and is not so, in the best round of each work."""
    problems = []
    for work in dict.fromkeys(result.work for result in results):
        mine = [result.summary for result in results if result.work == work]
        if any(summary.num_errors for summary in mine):
            problems.append(f"{work.name}: answers were wrong")
        is_short = work.num_tokens <= 4
        best = max(summary.requests_per_s if is_short else summary.output_tokens_per_s for summary in mine)
        least = LEAST_REQUESTS_PER_S if is_short else LEAST_TOKENS_PER_S
        if best < least:
            problems.append(f"{work.name}: {best:,.0f} {'requests' if is_short else 'tokens'}/s, and at least {least:,} are wanted")
    return problems


def _record(options: argparse.Namespace, results: list[Result]) -> dict[str, Any]:
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows = [asdict(result) | {"summary": result.summary.as_json()} for result in results]
    return {"date": date, "machine": describe_machine(), "options": vars(options), "results": rows}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
