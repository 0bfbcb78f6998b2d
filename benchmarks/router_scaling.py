"""What two servers behind `headway router` answer beside one: `python benchmarks/router_scaling.py --help`.

A server is modelless_server.py pinned to a core of its own: everything is real but the model, whose step takes a fixed time without the
core, as on an accelerator. So a server's tokens a second are bounded by its rows and its steps, and cores are left for the router and for
the client, which are pinned to none. Both numbers of servers get as many streams a server, and are measured in turn.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import uvloop
from front_end_works import MODEL
from server_path_load import load
from server_path_works import Checker, Work

from headway.server.bench.machine import describe_machine, tree_cpu_s
from headway.server.bench.server_process import ServerProcess, free_port
from headway.server.bench.stub_model import MAX_LEN, write_stub_model

_HERE = ["--host", "127.0.0.1", "--port"]


class Deployment:
    """As many servers, each on a core of its own, behind a router. To be entered."""

    def __init__(self, num_servers: int, options: argparse.Namespace, model_dir: Path) -> None:
        self._options, self._model_dir = options, model_dir
        self._checker = Checker(model_dir)
        self.num_servers = num_servers
        self._stack = ExitStack()

    def __enter__(self) -> Deployment:
        cores = sorted(os.sched_getaffinity(0))
        ports = [free_port() for _ in range(self.num_servers)]
        self._servers = [self._start(self._serves(port, cores[at % len(cores)]), port) for at, port in enumerate(ports)]
        urls = ",".join(f"http://127.0.0.1:{port}" for port in ports)
        self._port = free_port()
        argv = [sys.executable, "-m", "headway.server.cli", "router", "--servers", urls, "--no-access-log", *_HERE, str(self._port)]
        self._router = self._start(argv, self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tokens_per_s(self) -> float:
        """Of all servers, from the first request to the last token. Prints the cores that were taken meanwhile."""
        options = self._options
        streams = options.streams * self.num_servers
        work = Work(f"{self.num_servers} servers", True, True, options.tokens, streams, streams * options.requests)
        before = self._cpu_s()
        started = time.perf_counter()
        done = uvloop.run(load(self._port, work.requests(self._port), work.num_requests, work.num_connections, self._router.pid))
        seconds = time.perf_counter() - started
        if any(outcome.error for outcome in self._checker.outcomes(work, done)[0]):
            raise SystemExit(f"{work.name}: answers were wrong")
        rate = work.num_requests * work.num_tokens / seconds
        servers, router = ((after - so_far) / seconds for after, so_far in zip(self._cpu_s(), before, strict=True))
        print(f"| {self.num_servers} | {rate:,.0f} | {servers:.2f} | {router:.2f} |", flush=True)
        return rate

    def _cpu_s(self) -> tuple[float, float]:
        return sum(tree_cpu_s(server.pid) for server in self._servers), tree_cpu_s(self._router.pid)

    def _start(self, argv: Sequence[str], port: int) -> ServerProcess:
        server = self._stack.enter_context(ServerProcess(argv, os.environ, f"http://127.0.0.1:{port}"))
        server.wait_ready(300)
        return server

    def _serves(self, port: int, core: int) -> list[str]:
        script = str(Path(__file__).with_name("modelless_server.py"))
        options = ["serve", str(self._model_dir), "--served-model-name", MODEL, "--disable-uvicorn-access-log"]
        options += ["--max-num-seqs", str(self._options.streams), "--load-format", "dummy", "--dtype", "float32"]
        options += ["--max-model-len", str(MAX_LEN), "--kv-cache-memory-bytes", "1g", *_HERE, str(port)]
        return ["taskset", "-c", str(core), sys.executable, script, str(self._options.step_ms), *options]


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if two servers give less than 1.9 times what one does."""
    options = _parser().parse_args(argv)
    machine = describe_machine()
    print(f"{machine['cores']} cores of {machine['chip']}, Python {machine['python']}; load {os.getloadavg()[0]:.1f} before it began\n")
    print("| servers | tokens/s | cores, servers | cores, router |\n|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="headway-scaling-") as directory, ExitStack() as stack:
        write_stub_model(Path(directory))
        both = [stack.enter_context(Deployment(number, options, Path(directory))) for number in (1, 2)]
        for deployment in both:  # warms up
            deployment.tokens_per_s()
        ratios = []
        for _ in range(options.rounds):
            one, two = (deployment.tokens_per_s() for deployment in both)
            ratios.append(two / one)
    ratio = median(ratios)
    print(f"\n2 servers give {ratio:.2f} times the tokens of one; by round: {', '.join(f'{each:.2f}' for each in ratios)}")
    return int(ratio < 1.9)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="What two servers behind the router answer beside one.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=32, help="at a time, of each server")
    parser.add_argument("--tokens", type=int, default=64, help="of each stream")
    parser.add_argument("--requests", type=int, default=4, help="of each stream's client, one after the other")
    parser.add_argument("--step-ms", type=float, default=50.0, help="of the model, without the core")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
