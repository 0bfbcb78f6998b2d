"""The figures of the container image: `python benchmarks/container.py --image headway --model model.gguf`.

Size; `docker run` to the first 200 of /ping; `docker run` to the exit with a wrong variable; the entrypoint's own time from its start to
the exec of the server; /ping while more streams are open than the engine runs at a time. Listens on the loopback address only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from rich.console import Console
from rich.table import Table

from headway.server.bench.machine import describe_machine
from headway.server.bench.server_process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# The exec is replaced by an exit, so that what is timed ends where the server would begin.
_ENTRYPOINT_ALONE = (
    "import os, runpy; os.execvpe = lambda *a: os._exit(0); "
    "import sys; sys.argv = ['headway', 'serve']; runpy.run_module('headway.entrypoint', run_name='__main__')"
)


@dataclass(slots=True, frozen=True)
class Figure:
    """Several measurements of one thing, in ``unit``."""

    name: str
    unit: str
    values: list[float]

    def row(self) -> tuple[str, str, str, str, str]:
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        return (f"{self.name} [{self.unit}]", f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}", str(len(self.values)))


class ImageBench:
    """Measures one image; each method is one figure or a few."""

    def __init__(self, docker: str, image: str, model: Path, rounds: int) -> None:
        self._docker = docker
        self._image = image
        self._model = model.resolve()
        self._rounds = rounds

    def size(self) -> Figure:
        inspected = self._run("image", "inspect", "--format", "{{.Size}}", self._image)
        return Figure("image size", "MB", [int(inspected) / 1e6])

    def entrypoint(self) -> Figure:
        """In one container, so that Docker's own time is not in it; the first run reads the files and is not counted."""
        program = (
            "import subprocess, sys, time\n"
            "def once():\n"
            "    began = time.perf_counter()\n"
            f"    subprocess.run([sys.executable, '-c', {_ENTRYPOINT_ALONE!r}], check=True, stderr=subprocess.DEVNULL)\n"
            "    return (time.perf_counter() - began) * 1000\n"
            "once()\n"
            f"print(*[once() for _ in range({4 * self._rounds})])\n"
        )
        out = self._run("run", "--rm", *self._options(free_port()), "--entrypoint", "python", self._image, "-c", program)
        return Figure("entrypoint, start to exec", "ms", [float(word) for word in out.split()])

    def cold_start(self) -> Figure:
        return Figure("docker run to /ping 200", "s", [self._one_start() for _ in range(self._rounds)])

    def wrong_variable(self) -> Figure:
        return Figure("docker run to exit 2, wrong variable", "s", [self._one_refusal() for _ in range(self._rounds)])

    def ping_under_load(self, num_streams: int, seconds: float) -> list[Figure]:
        with self._running() as url:
            quiet = _ping_times(url, seconds / 4)
            with _streams_open(url, num_streams):
                loaded = _ping_times(url, seconds)
        return [Figure("/ping, idle", "ms", quiet), *_percentiles(f"/ping beside {num_streams} streams", loaded)]

    def _one_start(self) -> float:
        began = time.perf_counter()
        with self._running():
            return time.perf_counter() - began

    def _one_refusal(self) -> float:
        began = time.perf_counter()
        done = subprocess.run(
            [self._docker, "run", "--rm", "--network", "host", "--env", "SM_VLLM_MODLE=x", self._image, "serve"],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 2, done
        return time.perf_counter() - began

    @contextmanager
    def _running(self) -> Iterator[str]:
        """The URL of a ready server in a container of its own."""
        port, name = free_port(), f"headway-bench-{uuid.uuid4().hex[:8]}"
        self._run("run", "--detach", "--name", name, *self._options(port), self._image, "serve")
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_ready(url)
            yield url
        finally:
            self._run("rm", "--force", name)

    def _options(self, port: int) -> list[str]:
        volume = f"{self._model}:/opt/ml/model/model.gguf:ro"
        return ["--network", "host", "--env", f"SAGEMAKER_BIND_TO_PORT={port}", "--volume", volume]

    def _run(self, *words: str) -> str:
        return subprocess.run([self._docker, *words], check=True, capture_output=True, text=True).stdout.strip()


def _wait_ready(url: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ping", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"{url} was not ready within {timeout_s:.0f} s")


def _ping_times(url: str, seconds: float) -> list[float]:
    """Milliseconds of each GET /ping, one every 20 ms."""
    times = []
    deadline = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < deadline:
            began = time.perf_counter()
            answer = client.get("/ping")
            times.append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200, answer.text
            time.sleep(0.02)
    return times


@contextmanager
def _streams_open(url: str, num_streams: int) -> Iterator[None]:
    """``num_streams`` answers are streamed all the time, read by a process of its own: reading must not slow the probe down."""
    process = multiprocessing.get_context("spawn").Process(target=_stream_for_ever, args=(url, num_streams), daemon=True)
    process.start()
    try:
        deadline = time.monotonic() + 60
        while httpx.get(f"{url}/load").json()["server_load"] < num_streams:
            assert process.is_alive()
            assert time.monotonic() < deadline, "the streams did not open"
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.join()


def _stream_for_ever(url: str, num_streams: int) -> None:
    os.nice(19)

    async def one(client: httpx.AsyncClient, index: int) -> None:
        words = " ".join(f"word{index}x{k}" for k in range(100))
        body = {"prompt": words, "max_tokens": 256, "ignore_eos": True, "stream": True}
        while True:
            async with client.stream("POST", "/invocations", json=body) as answer:
                async for _ in answer.aiter_raw():
                    pass

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            await asyncio.gather(*(one(client, index) for index in range(num_streams)))

    asyncio.run(all_of_them())


def _percentiles(name: str, values: Sequence[float]) -> list[Figure]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return [Figure(f"{name}, {label}", "ms", [value]) for label, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", max(values)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image", default="headway")
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file")
    parser.add_argument("--docker", default="docker", help="the docker command")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=96, help="open streams while /ping is timed; the engine runs 64 at a time on a CPU")
    parser.add_argument("--seconds", type=float, default=20, help="how long /ping is timed under load")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    asked = parser.parse_args()
    bench = ImageBench(asked.docker, asked.image, asked.model, asked.rounds)
    figures = [bench.size(), bench.entrypoint(), bench.cold_start(), bench.wrong_variable()]
    figures += bench.ping_under_load(asked.streams, asked.seconds)
    machine = describe_machine()
    title = f"{asked.image} on {machine['chip']}, {machine['cores']} cores"
    table = Table("figure", "min", "median", "max", "n", title=title)
    for figure in figures:
        table.add_row(*figure.row())
    Console(width=120).print(table)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
