"""What `headway local` adds to a request: `python benchmarks/local_runtime.py`.

The same request straight to a server and through the runtime in front of it, in turn, so that the machine's noise hits both: one at a
time for the latency that is added, then 32 at a time for the throughput that is kept. The servers: a stub that answers at once, which
shows the whole cost, and the demo model. Prints each round and the medians of all; exit status 1 above --most-ms or below --least.
The stub's throughput is not judged: it does no work that a share could be measured of. Client, runtime and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn
import uvloop
from rich.console import Console

from headway.server.bench.machine import describe_machine
from headway.server.bench.server_process import ServerProcess, free_port

_CONCURRENCY = 32
_ANSWER = json.dumps({"choices": [{"text": "word " * 40}]}).encode()


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    command: Callable[[int], list[str]]  # for a port
    body: bytes
    num_alone: int  # requests of a round, one at a time
    num_together: int


@dataclass(frozen=True, slots=True)
class Round:
    added_median_ms: float
    added_p99_ms: float
    kept: float  # of the throughput

    def __str__(self) -> str:
        return f"adds {self.added_median_ms:.2f} ms (p99 {self.added_p99_ms:.2f}), keeps {self.kept:.1%} at {_CONCURRENCY}"


async def stub(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application that reads the request and answers the same to all."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def works(model: str) -> list[Work]:
    headway = [sys.executable, "-m", "headway.server.cli"]
    prompt = {"prompt": "Once upon a time", "max_tokens": 16, "ignore_eos": True, "temperature": 0}
    return [
        Work("stub", lambda port: [sys.executable, __file__, "--stub", str(port)], b"{}", 2000, 6400),
        Work(
            "demo",
            lambda port: [*headway, "serve", model, "--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"],
            json.dumps(prompt).encode(),
            10,
            64,
        ),
    ]


def run(work: Work, num_rounds: int, console: Console) -> list[Round]:
    port, local_port = free_port(), free_port()
    url, local = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{local_port}"
    argv = [sys.executable, "-m", "headway.server.cli", "local", "--url", url, "--port", str(local_port)]
    with ServerProcess(work.command(port), os.environ, url, "/ping") as server:
        server.wait_ready(300)
        with ServerProcess(argv, os.environ, local, "/ping") as runtime:
            runtime.wait_ready(60)
            places = (f"{url}/invocations", f"{local}/endpoints/local/invocations")
            return uvloop.run(_measure(work, places, num_rounds, console))


async def _measure(work: Work, places: tuple[str, str], num_rounds: int, console: Console) -> list[Round]:
    rounds = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for index in range(-1, num_rounds):  # the first warms up
            order = places if index % 2 else places[::-1]
            alone = {place: await _load(session, place, work.body, work.num_alone, 1) for place in order}
            together = {place: await _throughput(session, place, work) for place in order}
            direct, through = (alone[place] for place in places)
            rounds.append(
                Round(
                    _quantile(through, 50) - _quantile(direct, 50),
                    _quantile(through, 99) - _quantile(direct, 99),
                    together[places[1]] / together[places[0]],
                )
            )
            if index >= 0:
                console.print(f"{work.name}, round {index + 1}: {rounds[-1]}; {together[places[0]]:.0f} requests/s direct", highlight=False)
    return rounds[1:]


async def _throughput(session: aiohttp.ClientSession, place: str, work: Work) -> float:
    start = time.perf_counter()
    await _load(session, place, work.body, work.num_together, _CONCURRENCY)
    return work.num_together / (time.perf_counter() - start)


async def _load(session: aiohttp.ClientSession, place: str, body: bytes, total: int, concurrency: int) -> list[float]:
    """Milliseconds of each request."""
    durations: list[float] = []
    headers = {"Content-Type": "application/json"}

    async def client() -> None:
        for _ in range(total // concurrency):
            start = time.perf_counter()
            async with session.post(place, data=body, headers=headers) as answer:
                await answer.read()
                if answer.status != 200:
                    raise SystemExit(f"{place} answered {answer.status}: {(await answer.text())[:300]}")
            durations.append((time.perf_counter() - start) * 1000)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return durations


def _median(rounds: list[Round]) -> Round:
    names = ("added_median_ms", "added_p99_ms", "kept")
    return Round(*(statistics.median(getattr(one, name) for one in rounds) for name in names))


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", choices=("stub", "demo"), help="one of the servers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most-ms", type=float, default=2.0, help="the added median above which the exit status is 1")
    parser.add_argument("--least", type=float, default=0.95, help="the kept throughput of the demo model below which the exit status is 1")
    parser.add_argument("--stub", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub is not None:
        uvicorn.run(stub, host="127.0.0.1", port=options.stub, log_level="error", access_log=False, lifespan="off")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to stop, it stops its servers too
    console, is_good = Console(width=140), True
    for work in works(options.model):
        if options.only in (None, work.name):
            rounds = run(work, options.rounds, console)
            median = Round(
                *(statistics.median(getattr(one, name) for one in rounds) for name in ("added_median_ms", "added_p99_ms", "kept"))
            )
            console.print(f"{work.name}: {median}, over {len(rounds)} rounds", style="bold", highlight=False)
            is_good &= median.added_median_ms <= options.most_ms and (work.name == "stub" or median.kept >= options.least)
    console.print(" ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
