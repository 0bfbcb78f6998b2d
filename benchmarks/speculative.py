"""What drafts bring on a CPU: the same requests with and without --speculative-config, in turn, in one process.

    python benchmarks/speculative.py [--model demo] [--draft-model DIR [--draft-method eagle3]] [--rounds 3] [--draft-tokens 4]

The engine alone, without HTTP. Two kinds of work: an edit, in which most of the answer stands in the prompt (repeat this code with one name
changed), and prose about a subject, in which little does. Prints tokens a second by the clock and by CPU time, as the median over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from headway.server.config.server import ServerConfig
from headway.server.engine.build import build_engine
from headway.server.engine.core import EngineCore
from headway.server.source.cache import cache_directory
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_model
from headway.server.stats import DraftStats
from headway.server.text.chat_template import ChatTemplate
from headway.server.text.tokenizer import load_tokenizer
from headway.server.types import GenerateRequest, SamplingParams

CODE = """class Basket:
    def __init__(self, owner):
        self.owner = owner
        self.items = []

    def add(self, name, price, count=1):
        if price < 0:
            raise ValueError("a price is not below zero")
        self.items.append((name, price, count))

    def total(self):
        return sum(price * count for _, price, count in self.items)

    def cheapest(self):
        return min(self.items, key=lambda item: item[1])

    def describe(self):
        lines = [f"{name}: {count} at {price}" for name, price, count in self.items]
        return f"{self.owner} has " + ", ".join(lines)
"""
NAMES = ("Cart", "Trolley", "Bag", "Crate", "Box", "Order", "Hamper", "Pouch")
SUBJECTS = ("rivers", "bread", "glass", "maps", "clocks", "salt", "bridges", "paper")


@dataclass(frozen=True, slots=True)
class Measured:
    tokens_per_s: float
    tokens_per_cpu_s: float
    drafts: DraftStats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--draft-model", help="drafts in the place of looking up: a directory, a GGUF or a Hub id")
    parser.add_argument("--draft-method", default="draft_model", choices=("draft_model", "eagle", "eagle3"), help="what that is")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=160)
    options = parser.parse_args()
    files = resolve_model(options.model, cache_dir=cache_directory(os.environ))
    drafting = {"method": "ngram", "num_speculative_tokens": options.draft_tokens, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
    draft_files = None
    if options.draft_model is not None:
        drafting = {"method": options.draft_method, "model": options.draft_model, "num_speculative_tokens": options.draft_tokens}
        draft_files = resolve_model(options.draft_model, cache_dir=cache_directory(os.environ))
    engines = [_engine(files, {}), _engine(files, drafting, draft_files)]
    rows = []
    for kind in ("edit", "prose"):
        for batch in (1, 8):
            runs: list[tuple[Measured, Measured]] = []
            for number in range(options.rounds):
                prompts = _prompts(files, kind, batch, number)
                plain, drafted = (measure(engine, prompts, f"{kind}-{batch}-{number}", options.max_tokens) for engine in engines)
                runs.append((plain, drafted))
            rows.append(_row(kind, batch, runs))
    head = ("work", "requests", "tokens/s without", "with", "times", "by CPU time", "drafts right")
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    for engine in engines:
        engine.shutdown()


def measure(engine: EngineCore, prompts: Sequence[list[int]], name: str, max_tokens: int) -> Measured:
    """All prompts at once, from the first output token of the last one on."""
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    counts = {f"{name}-{i}": 0 for i in range(len(prompts))}
    for request_id, prompt in zip(counts, prompts, strict=True):
        engine.add_request(GenerateRequest(request_id, prompt, sampling, arrival_time=time.time()))
    while not all(counts.values()):
        _step(engine, counts)
    before, stats = sum(counts.values()), engine.stats().drafts
    wall, cpu = time.perf_counter(), time.process_time()
    while engine.has_work:
        _step(engine, counts)
    num_tokens = sum(counts.values()) - before
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(num_tokens / wall, num_tokens / cpu, _since(stats, engine.stats().drafts))


def _step(engine: EngineCore, counts: dict[str, int]) -> None:
    for delta in engine.step().deltas:
        counts[delta.request_id] += len(delta.token_ids)


def _since(before: DraftStats | None, now: DraftStats | None) -> DraftStats:
    if before is None or now is None:
        return DraftStats()
    accepted = tuple(there - here for here, there in zip(before.num_accepted, now.num_accepted, strict=True))
    return DraftStats(now.num_drafts - before.num_drafts, now.num_draft_tokens - before.num_draft_tokens, accepted)


def _row(kind: str, batch: int, runs: Sequence[tuple[Measured, Measured]]) -> list[str]:
    plain = statistics.median(run.tokens_per_s for run, _ in runs)
    drafted = statistics.median(run.tokens_per_s for _, run in runs)
    times = statistics.median(run.tokens_per_s / base.tokens_per_s for base, run in runs)
    cpu_times = statistics.median(run.tokens_per_cpu_s / base.tokens_per_cpu_s for base, run in runs)
    right, made = sum(run.drafts.num_accepted_tokens for _, run in runs), sum(run.drafts.num_draft_tokens for _, run in runs)
    return [kind, str(batch), f"{plain:.0f}", f"{drafted:.0f}", f"{times:.2f}", f"{cpu_times:.2f}", f"{right} of {made}"]


def _prompts(files: ModelFiles, kind: str, batch: int, number: int) -> list[list[int]]:
    tokenizer = load_tokenizer(files, None, cache_directory(os.environ))
    template = ChatTemplate(tokenizer.chat_templates, tokenizer.special_tokens)
    texts = [
        f"Repeat this code with the class renamed to {NAMES[(i + number) % len(NAMES)]}. Answer with the code only.\n```python\n{CODE}```"
        if kind == "edit"
        else f"Tell me about the history of {SUBJECTS[(i + number) % len(SUBJECTS)]}."
        for i in range(batch)
    ]
    return [tokenizer.encode(template.render([{"role": "user", "content": text}]), add_special_tokens=False) for text in texts]


def _engine(files: ModelFiles, drafting: dict[str, object], draft_files: ModelFiles | None = None) -> EngineCore:
    model = {"model": files.name, "max_model_len": 2048, "device": "cpu"}
    topics = {"model": model, "cache": {"enable_prefix_caching": False}, "speculative": {"speculative_config": drafting}}
    return build_engine(ServerConfig.model_validate(topics), files, draft_files=draft_files)


if __name__ == "__main__":
    main()
