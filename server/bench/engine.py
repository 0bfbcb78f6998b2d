"""`headway bench engine`: the engine alone, in this process, without HTTP, tokenizer or sockets."""

from __future__ import annotations

import argparse
import datetime
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headway.server.bench.outcome import Outcome
from headway.server.bench.report import summarize, summary_table
from headway.server.errors import ConfigError
from headway.server.types import FinishReason, GenerateRequest, SamplingParams, TokenDelta

if TYPE_CHECKING:
    from headway.server.engine.core import EngineCore


def bench_engine(options: argparse.Namespace, environ: Mapping[str, str], console: Console) -> int:
    """Builds the engine, runs the requests, prints the table, writes the JSON. Exit status 1 if a request failed.

    Raises ConfigError or ModelSourceError for what the engine can't be built from.
    """
    core = build_core(options.model, options.engine_options, environ, console)
    info = core.info
    try:
        warmup = EngineLoad(core, _requests(options, options.warmup, info.vocab_size, "warmup"))
        warmup.run(options.concurrency or options.num_prompts)
        load = EngineLoad(core, _requests(options, options.num_prompts, info.vocab_size, "bench"))
        wall_s = _run_with_bar(load, options, console)
    finally:
        core.shutdown()
    summary = summarize(list(load.outcomes.values()), wall_s)
    console.print(summary_table(summary, f"{options.model}: {info.architecture}, {info.weight_format}, {info.device}"))
    for message, count in summary.errors.items():
        console.print(f"{count} x {message}", markup=False, style="red", soft_wrap=True)
    if options.json:
        asked = {name: value for name, value in vars(options).items() if name not in ("command", "json")}
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"date": date, "engine": msgspec.to_builtins(info), "options": asked, "result": summary.as_json()}
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n")
    return 1 if summary.num_errors else 0


class EngineLoad:
    """Requests on their way through an engine, and how each went."""

    def __init__(self, core: EngineCore, requests: list[GenerateRequest]) -> None:
        self._core = core
        self._waiting = list(reversed(requests))
        self._num_open = 0
        self._num_prompt_tokens = {request.request_id: len(request.prompt_token_ids) for request in requests}
        self.outcomes: dict[str, Outcome] = {}

    @property
    def num_done(self) -> int:
        return len(self.outcomes) - self._num_open

    @property
    def is_done(self) -> bool:
        return not self._waiting and not self._num_open

    def run(self, concurrency: int) -> None:
        while not self.is_done:
            self.step(concurrency)

    def step(self, concurrency: int) -> None:
        """Fills the engine up to ``concurrency`` requests and runs one step."""
        while self._waiting and self._num_open < concurrency:
            request = self._waiting.pop()
            prompt_tokens = self._num_prompt_tokens[request.request_id]
            self.outcomes[request.request_id] = Outcome(time.perf_counter(), num_prompt_tokens=prompt_tokens, has_usage=True)
            self._num_open += 1
            self._core.add_request(request)
        for delta in self._core.step().deltas:
            self._take(delta, time.perf_counter())

    def _take(self, delta: TokenDelta, now: float) -> None:
        outcome = self.outcomes[delta.request_id]
        outcome.num_output_tokens += len(delta.token_ids)
        outcome.num_cached_tokens = max(outcome.num_cached_tokens, delta.num_cached_tokens)
        if delta.token_ids:
            outcome.chunk_times.append(now)
        if delta.finish_reason is not None:
            self._num_open -= 1
            outcome.ended = now
            if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
                outcome.error = delta.error or f"ended with {delta.finish_reason.value}"


def build_core(name: str, engine_options: Sequence[str], environ: Mapping[str, str], console: Console) -> EngineCore:
    """The engine of the model that the user calls ``name``, in this process. Raises ConfigError or ModelSourceError."""
    from headway.server.config.sources import resolve
    from headway.server.sizing.draft_files import resolve_draft
    from headway.server.source.cache import cache_directory
    from headway.server.source.resolve import resolve_model

    config = resolve([name, *engine_options], environ).config
    if (num_engines := config.data_parallel.data_parallel_size) > 1:
        what_to_do = "leave it out, or measure a server with `headway bench serve`"
        raise ConfigError([f"--data-parallel-size {num_engines}: one engine is measured here; {what_to_do}"])
    model = config.model
    assert model.model is not None
    with console.status("looking for the model") as status:
        files = resolve_model(
            model.model,
            revision=model.revision,
            token=model.hf_token,
            download_dir=model.download_dir,
            load_format=model.load_format,
            with_code=model.trust_remote_code,
            cache_dir=cache_directory(environ),
            on_progress=status.update,
        )
        draft_files = resolve_draft(config, cache_directory(environ), status.update)
        from headway.server.engine.build import build_engine  # torch: after the options are known to be good

        return build_engine(config, files, on_phase=status.update, draft_files=draft_files)


def _requests(options: argparse.Namespace, count: int, vocab_size: int, name: str) -> list[GenerateRequest]:
    """Random token ids; the same for the same seed, the prefix the same for all."""
    prefix_rng = random.Random(options.seed)
    prefix = [prefix_rng.randrange(vocab_size) for _ in range(options.prefix_len)]
    rng = random.Random(f"{options.seed} {name}")
    sampling = SamplingParams(
        max_tokens=options.output_len, temperature=options.temperature, seed=options.seed, ignore_eos=options.ignore_eos
    )
    return [
        GenerateRequest(f"{name}-{i}", prefix + [rng.randrange(vocab_size) for _ in range(options.input_len)], sampling, time.time())
        for i in range(count)
    ]


def _run_with_bar(load: EngineLoad, options: argparse.Namespace, console: Console) -> float:
    """Seconds that the run took."""
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=options.num_prompts)
        started = time.perf_counter()
        while not load.is_done:
            load.step(options.concurrency or options.num_prompts)
            progress.update(bar, completed=load.num_done)
        return time.perf_counter() - started
