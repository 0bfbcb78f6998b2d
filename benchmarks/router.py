"""What `headway router` adds to a request and to a server's CPU time: `python benchmarks/router.py --help`.

The same requests go to one server directly and through a router in front of it, in turn. All of them share the machine, so CPU time is told
apart by process: the router's share of the server's is what another machine can be compared by. Without --model the server is
modelless_server.py, the hardest case: nothing of its time is a model's. With --bare it is bare_server.py, which takes next to no time
itself, so that the time that is added can be seen on few cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import uvloop
from front_end_works import MODEL
from server_path_load import body_of, load
from server_path_works import Checker, Work

from headway.server.bench.machine import describe_machine, tree_cpu_s
from headway.server.bench.server_process import ServerProcess, free_port
from headway.server.bench.stub_model import MAX_LEN, write_stub_model

_HEAD = (
    "| work | way | first byte ms, p50 | p99 | whole answer ms, p50 | CPU us a token, server | router | router, of the server's |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one work in one round. CPU seconds of each process and its children; ``router_s`` is 0 without one."""

    work: Work
    is_routed: bool
    first_ms: list[float]
    whole_ms: list[float]
    server_s: float
    router_s: float

    def row(self) -> str:
        num_tokens = self.work.num_tokens * self.work.num_requests
        cells = (
            self.work.name,
            "router" if self.is_routed else "direct",
            f"{median(self.first_ms):.2f}",
            f"{quantiles(self.first_ms, n=100)[98]:.2f}",
            f"{median(self.whole_ms):.2f}",
            f"{self.server_s / num_tokens * 1e6:.1f}",
            f"{self.router_s / num_tokens * 1e6:.1f}",
            f"{self.router_s / self.server_s:.1%}" if self.server_s else "-",  # less than the kernel's 10 ms
        )
        return f"| {' | '.join(cells)} |"


class RouterBench:
    def __init__(self, options: argparse.Namespace, model_dir: Path) -> None:
        self._options = options
        self._model = options.model or str(model_dir)
        self._checker: Checker | None = None
        if options.model is None and not options.bare:
            write_stub_model(model_dir)
            self._checker = Checker(model_dir)

    def run(self) -> list[Result]:
        port, router_port = free_port(), free_port()
        here = ["--host", "127.0.0.1", "--port"]
        routes = [sys.executable, "-m", "headway.server.cli", "router", "--servers", f"http://127.0.0.1:{port}", *here, str(router_port)]
        with ExitStack() as stack:
            serves = self._serves_barely(port) if self._options.bare else [*self._serves(), *here, str(port)]
            server = stack.enter_context(ServerProcess(serves, os.environ, f"http://127.0.0.1:{port}"))
            server.wait_ready(300)
            argv = [*routes, "--no-access-log", "--policy", self._options.policy]
            router = stack.enter_context(ServerProcess(argv, os.environ, f"http://127.0.0.1:{router_port}"))
            router.wait_ready(60)
            return [
                self._measure(work, server.pid, to, router.pid if to == router_port else None)
                for _ in range(self._options.rounds)
                for work in self._works()
                for to in (port, router_port)
            ]

    def _serves_barely(self, port: int) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("bare_server.py")), str(port), str(self._options.step_ms)]

    def _serves(self) -> list[str]:
        options = ["serve", self._model, "--served-model-name", MODEL, "--disable-uvicorn-access-log"]
        options += ["--max-num-seqs", str(self._options.streams)]
        if self._options.model is not None:
            return [sys.executable, "-m", "headway.server.cli", *options]
        script = str(Path(__file__).with_name("modelless_server.py"))
        stub = ["--load-format", "dummy", "--dtype", "float32", "--max-model-len", str(MAX_LEN), "--kv-cache-memory-bytes", "1g"]
        return [sys.executable, script, str(self._options.step_ms), *options, *stub]

    def _works(self) -> list[Work]:
        options = self._options
        return [
            Work("completions, 1 token, one at a time", False, False, 1, 1, options.singles),
            Work(
                f"chat, {options.tokens} tokens streamed, {options.streams} at a time",
                True,
                True,
                options.tokens,
                options.streams,
                options.streams,
            ),
        ]

    def _measure(self, work: Work, server_pid: int, port: int, router_pid: int | None) -> Result:
        requests = work.requests(port)
        uvloop.run(load(port, requests, work.num_connections, work.num_connections, server_pid))  # warms up
        before = tree_cpu_s(server_pid), tree_cpu_s(router_pid) if router_pid else 0.0
        done = uvloop.run(load(port, requests, work.num_requests, work.num_connections, server_pid))
        after = tree_cpu_s(server_pid), tree_cpu_s(router_pid) if router_pid else 0.0
        for exchange in done.exchanges:
            body_of(exchange)  # raises WrongAnswer
        if self._checker is not None and any(outcome.error for outcome in self._checker.outcomes(work, done)[0]):
            raise SystemExit(f"{work.name}: answers were wrong")
        first = [(exchange.times[0] - exchange.started) * 1e3 for exchange in done.exchanges]
        whole = [(exchange.times[-1] - exchange.started) * 1e3 for exchange in done.exchanges]
        result = Result(work, router_pid is not None, first, whole, after[0] - before[0], after[1] - before[1])
        print(result.row(), flush=True)
        return result


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    machine = describe_machine()
    print(f"{machine['cores']} cores of {machine['chip']}, Python {machine['python']}\n\n{_HEAD}", flush=True)
    with tempfile.TemporaryDirectory(prefix="headway-router-") as directory:
        results = RouterBench(options, Path(directory)).run()
    single = [result for result in results if result.work.num_connections == 1]
    routed, direct = ([median(r.first_ms) for r in single if r.is_routed is is_routed] for is_routed in (True, False))
    added = ", ".join(f"{through - past:.2f}" for through, past in zip(routed, direct, strict=True))
    print(f"\nadded to the first byte of one request at a time, p50, by round: {added} ms")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="What the router adds to a request and to a server's CPU time.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", help="a model to serve, as for `headway serve`, in the place of the server without one")
    parser.add_argument("--bare", action="store_true", help="a server that answers from memory")
    parser.add_argument("--policy", default="least-load")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--step-ms", type=float, default=20.0, help="of the server without a model")
    parser.add_argument("--singles", type=int, default=200, help="requests that are sent one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
