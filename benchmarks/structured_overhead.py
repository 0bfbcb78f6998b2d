"""What a JSON schema costs a loaded server: `python benchmarks/structured_overhead.py`.

A real server with the demo model, chats of equal length at one concurrency, with and without a schema in turn, so that the machine's
noise hits both. The schemas ask for more than the answers' tokens hold: every answer has the same length. Prints tokens a second of each
round and the median of the rounds' ratios; exit status 1 below --least. A round in which other processes used more than
--max-other-cpu cores counts only if every one was like that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from headway.server.bench.client import Session, Work
from headway.server.bench.load import Pace, run_load
from headway.server.bench.machine import CpuMeter, describe_machine
from headway.server.bench.server_process import ServerProcess, free_port

_PROMPT = "Write about the city number {index} of a long list, with its history, sights and food."


def schema_of(index: int) -> dict[str, Any]:
    """One of several schemas of the usual make, whose answers have no end in sight."""
    place = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"enum": ["museum", "park", "church", "market"]},
            f"rating_{index}": {"type": "integer", "minimum": 0, "maximum": 10},
            "reason": {"type": "string", "maxLength": 60},
        },
        "required": ["name", "kind", f"rating_{index}", "reason"],
        "additionalProperties": False,
    }
    places = {"type": "array", "items": place, "minItems": 50}
    return {"type": "object", "properties": {"places": places}, "required": ["places"], "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Round:
    plain: float  # tokens a second
    schema: float
    others: float  # cores that neither the server nor this process used

    @property
    def ratio(self) -> float:
        return self.schema / self.plain


async def measure(server: ServerProcess, options: argparse.Namespace, console: Console) -> list[Round]:
    rounds = []
    async with Session(server.url) as session:
        model = await session.first_model()
        for index in range(-1, options.rounds):  # the first warms up
            meter = CpuMeter(server.pid)
            order = ("plain", "schema") if index % 2 else ("schema", "plain")
            speeds = {kind: await _tokens_per_second(session, model, kind, options) for kind in order}
            if index >= 0:
                rounds.append(Round(**speeds, others=meter.read().others))
                console.print(f"round {index + 1}: {rounds[-1]}, ratio {rounds[-1].ratio:.3f}")
    return rounds


async def _tokens_per_second(session: Session, model: str, kind: str, options: argparse.Namespace) -> float:
    runs = []
    for index in range(options.num_schemas):
        extra = {"response_format": {"type": "json_schema", "json_schema": {"name": "list", "schema": schema_of(index)}}}
        work = Work(model, "chat", options.output_len, ignore_eos=True, temperature=0.7, extra=extra if kind == "schema" else {})
        prompts = [_PROMPT.format(index=number) for number in range(index, options.concurrency, options.num_schemas)]
        runs.append(run_load(session, work, prompts, Pace()))
    loads = await asyncio.gather(*runs)
    failed = [outcome.error for load in loads for outcome in load.outcomes if outcome.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed: {failed[0]}")
    return sum(outcome.num_output_tokens for load in loads for outcome in load.outcomes) / max(load.wall_s for load in loads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--num-schemas", type=int, default=4, help="different schemas in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-other-cpu", type=float, default=0.3)
    parser.add_argument("--least", type=float, default=0.85, help="the ratio below which the exit status is 1")
    options = parser.parse_args()
    console = Console()
    port = free_port()
    argv = [sys.executable, "-m", "headway.server.cli", "serve", options.model, "--host", "127.0.0.1", "--port", str(port)]
    with ServerProcess(argv, os.environ, f"http://127.0.0.1:{port}") as server:
        server.wait_ready(300)
        rounds = asyncio.run(measure(server, options, console))
    quiet = [one for one in rounds if one.others <= options.max_other_cpu]
    ratio = statistics.median(one.ratio for one in quiet or rounds)
    disturbed = "" if quiet else ", all of them disturbed by other work on the machine"
    console.print(f"chat with a schema keeps {ratio:.1%} of the plain throughput, over {len(quiet or rounds)} rounds{disturbed}")
    console.print(" ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    return 0 if ratio >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
