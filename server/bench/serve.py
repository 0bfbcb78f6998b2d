"""`headway bench serve`: measure any OpenAI-compatible server."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headway.server.bench.client import Session, Work
from headway.server.bench.errors import BenchError
from headway.server.bench.load import Load, Pace, run_load
from headway.server.bench.outcome import Outcome
from headway.server.bench.prompts import PromptMaker, calibrated_counter, tokenizer_counter
from headway.server.bench.report import Summary, summarize, summary_table

API_KEY_NAMES = ("HEADWAY_BENCH_API_KEY", "OPENAI_API_KEY")
_WARMUP_OUTPUT_LEN = 8


def bench_serve(options: argparse.Namespace, environ: Mapping[str, str], console: Console) -> int:
    """Runs the load, prints the table, writes the JSON. Exit status 1 if a request failed. Raises BenchError."""
    work, summary = asyncio.run(_measure(options, environ, console))
    console.print(summary_table(summary, f"{work.model} at {options.url}"))
    for message, count in summary.errors.items():
        console.print(f"{count} x {message}", markup=False, style="red", soft_wrap=True)
    if summary.num_without_usage:
        console.print(f"{summary.num_without_usage} answers came without usage: their tokens are counted as chunks.", style="yellow")
    if options.json:
        Path(options.json).write_text(json.dumps(_record(options, work, summary), indent=2) + "\n")
    return 1 if summary.num_errors else 0


async def _measure(options: argparse.Namespace, environ: Mapping[str, str], console: Console) -> tuple[Work, Summary]:
    api_key = next((environ[name] for name in API_KEY_NAMES if environ.get(name)), None)
    async with Session(options.url, api_key, options.timeout) as session:
        model = options.model or await session.first_model()
        work = Work(model, options.endpoint, options.output_len, options.ignore_eos, options.temperature)
        if options.tokenizer:
            count_tokens = tokenizer_counter(Path(options.tokenizer))
        else:
            count_tokens = await calibrated_counter(lambda text: session.count_prompt_tokens(work, text), options.seed)
        made = PromptMaker(count_tokens, options.input_len, options.prefix_len, options.seed).prompts(options.num_prompts + options.warmup)
        for prompt in made[options.num_prompts :]:
            outcome = await session.generate(work, prompt, min(_WARMUP_OUTPUT_LEN, options.output_len))
            if outcome.error is not None:
                raise BenchError(f"A warm-up request failed: {outcome.error}")
        pace = Pace(options.request_rate, options.concurrency)
        load = await _run_with_bar(session, work, made[: options.num_prompts], pace, options.seed, console)
    return work, summarize(load.outcomes, load.wall_s)


async def _run_with_bar(session: Session, work: Work, prompts: list[str], pace: Pace, seed: int, console: Console) -> Load:
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(prompts))
        num_tokens = num_failed = 0

        def on_done(outcome: Outcome) -> None:
            nonlocal num_tokens, num_failed
            num_tokens += outcome.num_output_tokens
            num_failed += outcome.error is not None
            progress.update(bar, advance=1, description=f"{num_tokens} tokens" + (f", {num_failed} failed" if num_failed else ""))

        return await run_load(session, work, prompts, pace, seed, on_done)


def _record(options: argparse.Namespace, work: Work, summary: Summary) -> dict[str, Any]:
    asked = {name: value for name, value in vars(options).items() if name not in ("command", "json")}
    asked["request_rate"] = str(asked["request_rate"])  # JSON has no infinity
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": date, "model": work.model, "options": asked, "result": summary.as_json()}
