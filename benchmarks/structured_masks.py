"""Grammar libraries on the demo model's tokens: `python benchmarks/structured_masks.py`.

What a structured output costs beside the model: compiling a schema, and the mask of allowed tokens for each token of an answer. Answers
are random ways through each library's own masks, the same seeds for both. llguidance comes with Headway; xgrammar is compared where it is
installed (`pip install xgrammar`, in an environment of its own). Needs jsonschema and rfc3339-validator, as the tests do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from headway.server.bench.machine import describe_machine
from headway.server.source.cache import cache_directory
from headway.server.source.resolve import resolve_model
from headway.server.text.tokenizer import Tokenizer, load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from json_schemas import make_schemas

Mask = NDArray[np.int32]
MAX_TOKENS = 200


class Matcher(Protocol):
    """Where an answer stands in its grammar."""

    def fill(self) -> Mask:
        """A bit for each token that may follow."""
        ...

    def accept(self, token_id: int) -> None: ...

    def is_complete(self) -> bool: ...


Compile = Callable[[dict[str, Any]], Matcher]


class _LlguidanceMatcher:
    def __init__(self, matcher: Any, vocab_size: int) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self._matcher = matcher
        self._mask: Mask = allocate_token_bitmask(1, vocab_size + 1)

    def fill(self) -> Mask:
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        return self._mask

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    def is_complete(self) -> bool:
        return bool(self._matcher.is_accepting())


class _XgrammarMatcher:
    def __init__(self, compiled: Any, vocab_size: int) -> None:
        import torch
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
        self._mask = xgrammar.allocate_token_bitmask(1, vocab_size)
        assert self._mask.dtype == torch.int32

    def fill(self) -> Mask:
        self._matcher.fill_next_token_bitmask(self._mask)
        mask: Mask = self._mask.numpy()
        return mask

    def accept(self, token_id: int) -> None:
        self._matcher.accept_token(token_id)

    def is_complete(self) -> bool:
        return bool(self._matcher.is_terminated())


def llguidance_compiler(tokenizer: Tokenizer) -> Compile:
    from headway.server.text.grammars.library import compiled, library_form
    from headway.server.text.grammars.vocabulary import library_tokenizer
    from headway.server.types import Grammar

    tokens = library_tokenizer(tokenizer, tokenizer.vocab_size)

    def compile_schema(schema: dict[str, Any]) -> Matcher:
        matcher = compiled(library_form(Grammar("json_schema", json.dumps(schema)), {}), tokens)
        return _LlguidanceMatcher(matcher, tokenizer.vocab_size)

    return compile_schema


def xgrammar_compiler(tokenizer: Tokenizer) -> Compile:
    import xgrammar

    encoded = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    # A special token is no text; its bytes must not be one.
    encoded = [b"" if token_id in tokenizer.special_ids else token for token_id, token in enumerate(encoded)]
    info = xgrammar.TokenizerInfo(encoded, xgrammar.VocabType.RAW, stop_token_ids=list(tokenizer.eos_token_ids))
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile_schema(schema: dict[str, Any]) -> Matcher:
        return _XgrammarMatcher(compiler.compile_json_schema(json.dumps(schema), strict_mode=False), tokenizer.vocab_size)

    return compile_schema


@dataclass(slots=True)
class Result:
    name: str
    start_s: float
    compile_s: list[float] = field(default_factory=list)
    first_mask_s: list[float] = field(default_factory=list)
    mask_s: list[float] = field(default_factory=list)
    num_refused: int = 0
    num_finished: int = 0
    num_valid: int = 0


def measure(name: str, make: Callable[[Tokenizer], Compile], tokenizer: Tokenizer, num_schemas: int) -> Result:
    started = time.perf_counter()
    compile_schema = make(tokenizer)
    result = Result(name, time.perf_counter() - started)
    closing = np.array([any(mark in tokenizer.token_bytes(token) for mark in b'"}]') for token in range(tokenizer.vocab_size)])
    for seed, (_, schema) in enumerate(make_schemas(num_schemas)):
        started = time.perf_counter()
        try:
            matcher = compile_schema(schema)
        except (ValueError, RuntimeError):
            result.num_refused += 1
            continue
        result.compile_s.append(time.perf_counter() - started)
        text = _random_way(matcher, tokenizer, closing, np.random.default_rng(seed), result)
        if text is not None:
            result.num_finished += 1
            result.num_valid += _is_valid(schema, text)
    return result


def _random_way(
    matcher: Matcher, tokenizer: Tokenizer, closing: NDArray[np.bool_], random: np.random.Generator, result: Result
) -> str | None:
    token_ids: list[int] = []
    for step in range(MAX_TOKENS):
        started = time.perf_counter()
        mask = matcher.fill()
        (result.mask_s if step else result.first_mask_s).append(time.perf_counter() - started)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: tokenizer.vocab_size]
        choices = np.flatnonzero(bits)
        choices = choices[~np.isin(choices, tokenizer.eos_token_ids)]
        if matcher.is_complete() and (len(choices) == 0 or random.random() < 0.5):
            return tokenizer.decode(token_ids, skip_special_tokens=False)
        if len(choices) == 0:
            return None
        closers = choices[closing[choices]]
        token_ids.append(int(random.choice(closers if len(closers) and random.random() < 0.3 else choices)))
        matcher.accept(token_ids[-1])
        if matcher.is_complete() and isinstance(matcher, _XgrammarMatcher):
            return tokenizer.decode(token_ids, skip_special_tokens=False)
    return None


def _is_valid(schema: dict[str, Any], text: str) -> bool:
    try:
        return bool(Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(json.loads(text)))
    except ValueError:
        return False


def report(results: list[Result], num_schemas: int) -> Table:
    table = Table(title=f"{num_schemas} schemas, one thread, us unless said")
    for column in ("", *(result.name for result in results)):
        table.add_column(column, justify="right")
    rows: list[tuple[str, Callable[[Result], str]]] = [
        ("vocabulary, ms", lambda r: f"{1e3 * r.start_s:.0f}"),
        ("compile p50", lambda r: _quantile(r.compile_s, 50)),
        ("compile p99", lambda r: _quantile(r.compile_s, 99)),
        ("first mask p50", lambda r: _quantile(r.first_mask_s, 50)),
        ("mask mean", lambda r: f"{1e6 * statistics.fmean(r.mask_s):.0f}"),
        ("mask p50", lambda r: _quantile(r.mask_s, 50)),
        ("mask p99", lambda r: _quantile(r.mask_s, 99)),
        ("mask max", lambda r: f"{1e6 * max(r.mask_s):.0f}"),
        ("masks", lambda r: str(len(r.mask_s))),
        ("refused", lambda r: str(r.num_refused)),
        ("finished", lambda r: str(r.num_finished)),
        ("of these valid", lambda r: str(r.num_valid)),
    ]
    for label, value in rows:
        table.add_row(label, *(value(result) for result in results))
    return table


def _quantile(seconds: list[float], percent: int) -> str:
    return f"{1e6 * statistics.quantiles(seconds, n=100, method='inclusive')[percent - 1]:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schemas", type=int, default=300)
    options = parser.parse_args()
    cache_dir = cache_directory({})
    tokenizer = load_tokenizer(resolve_model("demo", cache_dir=cache_dir), None, cache_dir)
    libraries = {"llguidance": llguidance_compiler}
    console = Console()
    if importlib.util.find_spec("xgrammar") is None:
        console.print("xgrammar is not installed: `pip install xgrammar` to compare it")
    else:
        libraries["xgrammar"] = xgrammar_compiler
    console.print(" ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    console.print(report([measure(name, make, tokenizer, options.schemas) for name, make in libraries.items()], options.schemas))


if __name__ == "__main__":
    main()
