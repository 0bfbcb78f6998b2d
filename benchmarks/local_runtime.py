"""What `headway local` adds to a request: `python benchmarks/local_runtime.py`, some three minutes on two cores.

The same request straight to a server and through the runtime in front of it, in turn, so that the machine's noise hits both: one at a
time for the latency that is added, then 32 at a time for the throughput that is kept; answered whole, and streamed in event-stream
messages. The servers:

- `stub` answers at once. It shows the whole cost of the runtime and is what to look at when that changes. Its throughput is not judged:
  with no work in it, the share that is kept is that of two Python servers on the same cores, whatever the runtime does.
- `paced` takes as long as a model on an accelerator and uses none of this machine's time for it: 50 ms for an answer, one part every
  10 ms of a stream.
- `demo` is the demo model on the same cores, the most that the runtime can take from a model. Every answer has as many tokens.
  Its latency is not judged: it scatters by more than the runtime adds.

Client, runtime and server share the machine, so whatever the runtime uses is missing elsewhere. Prints each round and the medians of all
as a table; exit status 1 above --most-ms (of `stub` and `paced`), or below --least (of `paced` and `demo`), whole or streamed. A machine on
which others are at work makes the figures of `demo` useless: how many cores they used is in the last column.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn
import uvloop
from rich.console import Console

from headway.server.bench.machine import CpuMeter, describe_machine, tree_cpu_s
from headway.server.bench.server_process import ServerProcess, free_port

_CONCURRENCY = 32
_ANSWER = json.dumps({"choices": [{"text": "word " * 40}]}).encode()
_EVENT = (
    b"data: " + json.dumps({"id": "cmpl-0123456789abcdef", "object": "text_completion", "choices": [{"text": " word"}]}).encode() + b"\n\n"
)
_NUM_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    command: Callable[[int], list[str]]  # for a port
    num_alone: int  # requests of a round, one at a time
    num_together: int
    is_latency_judged: bool
    is_throughput_judged: bool


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is asked for."""

    name: str
    is_streamed: bool

    def places(self, url: str, local: str) -> tuple[str, str]:
        """(straight, through the runtime)."""
        return f"{url}/invocations", f"{local}/endpoints/local/{'invocations-response-stream' if self.is_streamed else 'invocations'}"

    def body(self) -> bytes:
        asked = {"prompt": "Once upon a time", "max_tokens": _NUM_TOKENS, "ignore_eos": True, "temperature": 0}
        return json.dumps({**asked, "stream": self.is_streamed}).encode()


@dataclass(frozen=True, slots=True)
class Round:
    """Of a work in a form. Milliseconds, but for ``kept``, a share, and the last two."""

    first_byte: float  # added to the median
    whole: float
    whole_p99: float
    kept: float  # of the throughput
    runtime_cpu: float  # a request, at 32
    direct_rate: float  # requests a second
    others: float  # cores that neither of the servers nor this process used

    def __str__(self) -> str:
        return (
            f"adds {self.first_byte:.2f} ms to the first byte, {self.whole:.2f} to the last (p99 {self.whole_p99:.2f}), "
            f"{self.runtime_cpu:.2f} ms of CPU; keeps {self.kept:.1%} of {self.direct_rate:.4g}/s; others {self.others:.2f} cores"
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds."""

    first_byte: float
    whole: float


async def stub(scope: dict[str, Any], receive: Any, send: Any, pace: bool = False) -> None:
    """An ASGI application that reads the request and answers the same to all."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if not json.loads(body or b"{}").get("stream"):
        if pace and body:
            await asyncio.sleep(0.05)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _ANSWER})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(_NUM_TOKENS):
        await asyncio.sleep(0.01 if pace else 0)
        await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def paced_stub(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await stub(scope, receive, send, pace=True)


_STUBS = {"stub": stub, "paced": paced_stub}


def works(model: str) -> list[Work]:
    headway = [sys.executable, "-m", "headway.server.cli"]

    def serve(port: int) -> list[str]:
        return [*headway, "serve", model, "--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]

    def serve_stub(name: str) -> Callable[[int], list[str]]:
        return lambda port: [sys.executable, __file__, "--stub", name, str(port)]

    return [
        Work("stub", serve_stub("stub"), 800, 3200, is_latency_judged=True, is_throughput_judged=False),
        Work("paced", serve_stub("paced"), 10, 640, is_latency_judged=True, is_throughput_judged=True),
        Work("demo", serve, 4, 64, is_latency_judged=False, is_throughput_judged=True),
    ]


FORMS = (Form("whole", is_streamed=False), Form("streamed", is_streamed=True))


def run(work: Work, num_rounds: int, console: Console) -> Iterator[tuple[Form, Round]]:
    """The median of each form."""
    port, local_port = free_port(), free_port()
    url, local = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{local_port}"
    argv = [sys.executable, "-m", "headway.server.cli", "local", "--url", url, "--port", str(local_port)]
    with ServerProcess(work.command(port), os.environ, url, "/ping") as server:
        server.wait_ready(300)
        with ServerProcess(argv, os.environ, local, "/ping") as runtime:
            runtime.wait_ready(60)
            bench = _Bench(work, server.pid, runtime.pid, console)
            for form in FORMS:
                yield form, _median(uvloop.run(bench.measure(form, form.places(url, local), num_rounds)))


@dataclass(frozen=True, slots=True)
class _Bench:
    work: Work
    server_pid: int
    runtime_pid: int
    console: Console

    async def measure(self, form: Form, places: tuple[str, str], num_rounds: int) -> list[Round]:
        rounds = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for index in range(-1, num_rounds):  # the first warms up
                rounds.append(await self._round(session, form.body(), places, is_turned=index % 2 == 0))
                if index >= 0:
                    self.console.print(f"{self.work.name} {form.name}, round {index + 1}: {rounds[-1]}", highlight=False, soft_wrap=True)
        return rounds[1:]

    async def _round(self, session: aiohttp.ClientSession, body: bytes, places: tuple[str, str], is_turned: bool) -> Round:
        order = places[::-1] if is_turned else places
        meter, runtime_before, work = CpuMeter(self.server_pid), tree_cpu_s(self.runtime_pid), self.work
        start = time.perf_counter()
        alone = {place: await _load(session, place, body, work.num_alone, 1) for place in order}
        rates, cpu_s = {}, 0.0
        for place in order:
            before, begun = tree_cpu_s(self.runtime_pid), time.perf_counter()
            await _load(session, place, body, work.num_together, _CONCURRENCY)
            rates[place] = work.num_together / (time.perf_counter() - begun)
            if place == places[1]:
                cpu_s = tree_cpu_s(self.runtime_pid) - before
        own = (tree_cpu_s(self.runtime_pid) - runtime_before) / (time.perf_counter() - start)
        direct, through = (alone[place] for place in places)
        first, last = ([[getattr(one, name) for one in timings] for timings in (direct, through)] for name in ("first_byte", "whole"))
        return Round(
            _quantile(first[1], 50) - _quantile(first[0], 50),
            _quantile(last[1], 50) - _quantile(last[0], 50),
            _quantile(last[1], 99) - _quantile(last[0], 99),
            rates[places[1]] / rates[places[0]],
            cpu_s / work.num_together * 1000,
            rates[places[0]],
            max(0.0, meter.read().others - own),
        )


async def _load(session: aiohttp.ClientSession, place: str, body: bytes, total: int, concurrency: int) -> list[Timing]:
    timings: list[Timing] = []
    headers = {"Content-Type": "application/json"}

    async def client() -> None:
        for _ in range(total // concurrency):
            start = time.perf_counter()
            async with session.post(place, data=body, headers=headers) as answer:
                begin = await answer.content.readany()
                first = time.perf_counter()
                rest = await answer.read()
                if answer.status != 200:
                    raise SystemExit(f"{place} answered {answer.status}: {(begin + rest).decode(errors='replace')[:300]}")
            timings.append(Timing((first - start) * 1000, (time.perf_counter() - start) * 1000))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return timings


def _median(rounds: list[Round]) -> Round:
    return Round(*(statistics.median(getattr(one, field.name) for one in rounds) for field in dataclasses.fields(Round)))


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _row(work: Work, form: Form, median: Round) -> str:
    return (
        f"| {work.name} | {form.name} | {median.direct_rate:.4g} | {median.kept:.1%} | {median.first_byte:.2f} | {median.whole:.2f} "
        f"| {median.whole_p99:.2f} | {median.runtime_cpu:.2f} | {median.others:.2f} |"
    )


_HEAD = (
    f"| server | answer | requests/s straight, {_CONCURRENCY} at a time | kept | added to the first byte, ms | to the last | p99 "
    "| runtime's CPU a request, ms | others, cores |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", choices=("stub", "paced", "demo"), help="one of the servers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most-ms", type=float, default=2.0, help="the added median above which the exit status is 1, but for the demo")
    parser.add_argument("--least", type=float, default=0.95, help="the kept throughput below which the exit status is 1, but for the stub")
    parser.add_argument("--stub", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub is not None:
        name, port = options.stub
        uvicorn.run(_STUBS[name], host="127.0.0.1", port=int(port), log_level="error", access_log=False, lifespan="off")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to stop, it stops its servers too
    console, is_good, rows = Console(width=140), True, []
    for work in works(options.model):
        if options.only not in (None, work.name):
            continue
        for form, median in run(work, options.rounds, console):
            rows.append(_row(work, form, median))
            is_good &= not work.is_latency_judged or max(median.first_byte, median.whole) <= options.most_ms
            is_good &= not work.is_throughput_judged or median.kept >= options.least
    console.print(_HEAD, *rows, sep="\n", style="bold", highlight=False, soft_wrap=True)
    console.print(" ".join(f"{name}: {value}" for name, value in describe_machine().items()), soft_wrap=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
