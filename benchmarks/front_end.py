"""Requests per second of the HTTP front end, beside vLLM's: `python benchmarks/front_end.py --help`.

The model is one small layer with random weights, so that an answer costs what stands around an engine: TLS, the key, parsing, the
tokenizer, messages to the engine and back, the answer's JSON or events. Every answer is checked, and so is that the server holds no more
memory and file descriptors after the works than after the warm-up. One server runs at a time; their order turns from round to round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import shlex
import signal
import ssl
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import trustme
import uvloop
from front_end_load import Holding, Run, Target, load, settled
from front_end_works import MODEL, ChatStreams, Completions, Work
from peers import Peer, headway_version, vllm_environment, vllm_version
from rich.console import Console
from rich.table import Table

from headway.server.bench.machine import CpuMeter, describe_machine
from headway.server.bench.server_process import ServerFailed, ServerProcess, free_port
from headway.server.bench.stub_model import MAX_LEN, write_stub_model

# glibc keeps what was freed, and the interpreter's arenas fill up: both stop growing after a few thousand requests.
MAX_GROWTH_BYTES = 16 * 2**20  # of one process
MAX_NEW_FDS = 4  # of one process


@dataclass(slots=True)
class ServerRun:
    """One start of one server. ``growth``: of each process, bytes and file descriptors from the warm-up to the end."""

    peer: str
    round_index: int
    runs: list[Run] = field(default_factory=list)
    others_cpu: float = 0.0  # cores that neither the server nor this process used
    growth: list[Holding] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class FrontEndBench:
    """All runs of one benchmark, with one certificate, one key and one model directory."""

    def __init__(self, options: argparse.Namespace, directory: Path, console: Console) -> None:
        self.runs: list[ServerRun] = []
        self._options = options
        self._console = console
        self._key = secrets.token_urlsafe(16)
        self._model_dir = directory / "model"
        self._model_dir.mkdir()
        write_stub_model(self._model_dir)
        self._tls: ssl.SSLContext | None = None
        self._tls_flags: list[str] = []
        if not options.no_tls:
            self._tls, self._tls_flags = _certificate(directory)
        self.works: list[Work] = [Completions(self._model_dir), ChatStreams(self._model_dir)]
        self.peers = [self._headway(), *([self._vllm()] if options.vllm_python else [])]

    def run(self) -> None:
        for round_index in range(self._options.rounds):
            for peer in self.peers if round_index % 2 == 0 else reversed(self.peers):
                self._console.print(f"round {round_index + 1}: {peer.name}", style="bold")
                run = self._serve_and_measure(peer, round_index)
                self.runs.append(run)
                for failure in run.failures:
                    self._console.print(f"  {failure}", style="red", markup=False, soft_wrap=True)

    def _serve_and_measure(self, peer: Peer, round_index: int) -> ServerRun:
        port, run = free_port(), ServerRun(peer.name, round_index)
        url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        environment = peer.environment(os.environ) | {"VLLM_API_KEY": self._key}
        try:
            with ServerProcess(peer.command(port), environment, url, tls=self._tls) as server:
                self._console.print(f"  ready after {server.wait_ready(peer.ready_limit_s):.1f} s")
                meter = CpuMeter(server.pid)
                uvloop.run(self._measure(Target(url, self._key, self._tls, server.pid), run))
                run.others_cpu = meter.read().others
        except ServerFailed as failure:
            run.failures.append(str(failure))
        return run

    async def _measure(self, target: Target, run: ServerRun) -> None:
        options = self._options
        for work in self.works:
            run.failures += (await load(target, work, options.warmup, options.connections)).failures
        before = await settled(target.pid)
        for work in self.works:
            run.runs.append(await load(target, work, options.requests, options.connections))
            self._console.print(f"  {_line(run.runs[-1])}", soft_wrap=True, highlight=False)
            run.failures += run.runs[-1].failures
            if (opened := run.runs[-1].num_connections) > options.connections:
                run.failures.append(f"{work.name}: {opened} connections were opened instead of {options.connections}: some were not kept")
        run.growth = _growth(before, await settled(target.pid))
        if run.peer == "headway":
            run.failures += _growth_problems(run.growth)

    def _headway(self) -> Peer:
        # A cache so small that the warm-up touches all of it: memory that the kernel gives late looks like a leak.
        argv = [sys.executable, "-m", "headway.server.cli", "serve", str(self._model_dir), "--kv-cache-memory-bytes", "64m"]
        if self._options.api_server_count != 1:
            argv += ["--api-server-count", str(self._options.api_server_count)]
        return Peer("headway", [*argv, *self._common_flags(), *shlex.split(self._options.headway_args)], headway_version())

    def _vllm(self) -> Peer:
        python = self._options.vllm_python
        argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", "--model", str(self._model_dir)]
        argv += [*self._common_flags(), *shlex.split(self._options.vllm_args)]
        env = vllm_environment(python, len(os.sched_getaffinity(0)))
        return Peer("vllm", argv, vllm_version(python), env, ready_limit_s=300.0)

    def _common_flags(self) -> list[str]:
        """Spelt alike for both. Neither writes a log line for each request: that would be a comparison of logs."""
        flags = ["--load-format", "dummy", "--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", str(MAX_LEN)]
        flags += ["--max-num-seqs", "64", "--disable-uvicorn-access-log", "--host", "127.0.0.1", "--port", "{port}"]
        return flags + self._tls_flags


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if a server failed, an answer was wrong or a server grew."""
    options = _parser().parse_args(argv)
    console = Console(width=140)
    # A shell starts background jobs with SIGINT ignored; a benchmark that is told to stop must stop its server too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with tempfile.TemporaryDirectory(prefix="headway-front-end-") as directory:
        bench = FrontEndBench(options, Path(directory), console)
        try:
            bench.run()
        except KeyboardInterrupt:
            console.print("stopped; what is done follows", style="yellow")
    console.print(_result_table(bench))
    if options.json:
        Path(options.json).write_text(json.dumps(_record(options, bench), indent=1) + "\n")
    return 1 if not bench.runs or any(run.failures for run in bench.runs) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Requests per second of the HTTP front end, beside vLLM's.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000, help="of each work")
    parser.add_argument("--connections", type=int, default=64, help="kept-alive connections, each with one request open")
    parser.add_argument("--warmup", type=int, default=2000, help="requests of each work before anything is measured")
    parser.add_argument("--rounds", type=int, default=2, help="how often each server is started and measured")
    parser.add_argument("--api-server-count", type=int, default=1, metavar="N", help="API processes of headway")
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP")
    parser.add_argument("--headway-args", default="", metavar="ARGS", help="further options of `headway serve`, as one word")
    parser.add_argument("--vllm-python", metavar="PATH", help="the python that has vLLM installed")
    parser.add_argument("--vllm-args", default="", metavar="ARGS", help="further options of vLLM's API server")
    parser.add_argument("--json", metavar="FILE", help="write all figures, the machine and the versions here")
    return parser


def _certificate(directory: Path) -> tuple[ssl.SSLContext, list[str]]:
    """(what trusts it, the flags that serve it) of a new certificate for the loopback address."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = directory / "key.pem", directory / "chain.pem"
    certificate.private_key_pem.write_to_path(str(key))
    chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context, ["--ssl-keyfile", str(key), "--ssl-certfile", str(chain)]


def _growth(before: Sequence[Holding], after: Sequence[Holding]) -> list[Holding]:
    known = {holding.pid: holding for holding in before}
    pairs = [(known.get(now.pid, Holding(now.pid, 0, 0)), now) for now in after]
    return [Holding(now.pid, now.rss_bytes - then.rss_bytes, now.num_fds - then.num_fds) for then, now in pairs]


def _growth_problems(growth: Sequence[Holding]) -> list[str]:
    found = []
    for process in growth:
        if process.rss_bytes > MAX_GROWTH_BYTES:
            found.append(f"process {process.pid} grew by {process.rss_bytes / 2**20:.1f} MiB; {MAX_GROWTH_BYTES // 2**20} are allowed")
        if process.num_fds > MAX_NEW_FDS:
            found.append(f"process {process.pid} holds {process.num_fds} more file descriptors; {MAX_NEW_FDS} are allowed")
    return found


def _line(run: Run) -> str:
    rate, p50, p99, cpu = _figures(run)
    return (
        f"{run.work}: {rate:.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {cpu:.2f} ms of CPU a request "
        f"(client {run.client_cpu_s / run.wall_s:.2f} cores), {len(run.failures)} failures"
    )


def _figures(run: Run) -> tuple[float, float, float, float]:
    """Requests/s, p50 and p99 in ms, the server's CPU milliseconds a request."""
    cuts = statistics.quantiles(run.times_s, n=100, method="inclusive") if len(run.times_s) > 1 else [float("nan")] * 99
    num_done = max(len(run.times_s), 1)
    return len(run.times_s) / run.wall_s, cuts[49] * 1000, cuts[98] * 1000, run.cpu_s / num_done * 1000


def _result_table(bench: FrontEndBench) -> Table:
    """Medians over the rounds."""
    columns = ("work", "server", "requests/s", "p50 ms", "p99 ms", "CPU ms a request", "MiB grown", "descriptors", "failures")
    table = Table(*columns, title="front end (medians over the rounds)", title_justify="left")
    for work in bench.works:
        for peer in bench.peers:
            mine = [run for run in bench.runs if run.peer == peer.name]
            figures = [_figures(one) for run in mine for one in run.runs if one.work == work.name]
            if not figures:
                table.add_row(work.name, peer.name, *["-"] * 6, str(sum(len(run.failures) for run in mine)))
                continue
            rate, p50, p99, cpu = (statistics.median(values) for values in zip(*figures, strict=True))
            grown = max((process.rss_bytes for run in mine for process in run.growth), default=0) / 2**20
            fds = max((process.num_fds for run in mine for process in run.growth), default=0)
            failures = sum(len(run.failures) for run in mine)
            table.add_row(
                work.name, peer.name, f"{rate:.0f}", f"{p50:.1f}", f"{p99:.1f}", f"{cpu:.2f}", f"{grown:+.1f}", f"{fds:+d}", str(failures)
            )
    return table


def _record(options: argparse.Namespace, bench: FrontEndBench) -> dict[str, Any]:
    runs = [asdict(run) for run in bench.runs]
    for run in runs:
        for one in run["runs"]:
            one["times_ms"] = [round(seconds * 1000, 3) for seconds in one.pop("times_s")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "options": vars(options),
        "peers": {peer.name: {"version": peer.version, "argv": peer.argv, "env": peer.env} for peer in bench.peers},
        "runs": runs,
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
