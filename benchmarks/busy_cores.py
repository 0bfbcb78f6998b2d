"""What a server on a CPU gives beside other processes that use its cores: `python benchmarks/busy_cores.py --help`.

Each line is a new server and its clients, with as many busy processes of a niceness beside them; once with the threads that the server
takes by itself, once with one (OMP_NUM_THREADS=1). How it notices: headway/server/engine/shared_cores.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headway.server.bench.client import Session, Work
from headway.server.bench.load import Pace, run_load
from headway.server.bench.machine import describe_machine
from headway.server.bench.prompts import PromptMaker, calibrated_counter
from headway.server.bench.report import summarize
from headway.server.bench.server_process import ServerProcess, free_port

_SPIN = "import os, sys\nos.nice(int(sys.argv[1]))\nwhile True: pass"
_TOLD = "Steps are computed by"


@contextmanager
def busy(count: int, niceness: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN, str(niceness)]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def tokens_per_s(url: str, options: argparse.Namespace) -> float:
    async with Session(url, timeout_s=900) as session:
        work = Work(await session.first_model(), "completions", options.output_len, ignore_eos=True)

        async def count(text: str) -> int:
            return await session.count_prompt_tokens(work, text)

        maker = PromptMaker(await calibrated_counter(count, 0), options.input_len, 0, "busy cores")
        load = await run_load(session, work, maker.prompts(options.requests), Pace(concurrency=options.clients))
        return summarize(load.outcomes, load.wall_s).output_tokens_per_s


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    print(f"{describe_machine()}\n\n| busy beside it | threads | output tokens/s | changes of threads |\n|---|---|---:|---:|", flush=True)
    for count, niceness in ((0, 0), (1, 19), (1, 0), (2, 0)):
        for threads in ("", "1"):
            port, env = free_port(), os.environ | ({"OMP_NUM_THREADS": threads} if threads else {})
            command = [sys.executable, "-m", "headway.server.cli", "serve", options.model, "--host", "127.0.0.1", "--port", str(port)]
            with ServerProcess(command, env, f"http://127.0.0.1:{port}") as server:
                server.wait_ready(300)
                with busy(count, niceness):
                    rate = asyncio.run(tokens_per_s(server.url, options))
                changes = sum(_TOLD in line for line in server.lines())
            beside = f"{count} at nice {niceness}" if count else "nothing"
            print(f"| {beside} | {threads or 'its own'} | {rate:.0f} | {changes} |", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
