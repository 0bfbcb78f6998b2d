"""Answers under a JSON schema, of models that write nonsense: whatever is finished is valid. 500 schemas, twice.

Once with the demo model's tokens along a random way through the grammar, once through an engine with random weights at temperature 1.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from demo_model import demo_files
from engine_driver import Output, make_engine, request
from json_schemas import make_schemas
from jsonschema import Draft202012Validator
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_tokenizer

from headway.server.source.resolve import resolve_model
from headway.server.text.grammars.library import compiled, compiling_pool, library_form
from headway.server.text.grammars.vocabulary import library_tokenizer
from headway.server.text.tokenizer import Tokenizer, load_tokenizer
from headway.server.types import FinishReason, Grammar

NUM_SCHEMAS = 500
MAX_TOKENS = 250


class Counts:
    """What became of the schemas; printed, since a library that refuses more than before is news too."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def check(self, schema: dict[str, Any], text: str) -> None:
        self.ends["finished"] += 1
        try:
            Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(json.loads(text))
        except Exception as problem:
            raise AssertionError(f"{text!r} is not what {json.dumps(schema)} describes") from problem

    def refuse(self, problem: ValueError) -> None:
        self.ends["refused"] += 1
        self.reasons[str(problem)[:60]] += 1

    def report(self, name: str) -> None:
        print(f"{name}: {dict(self.ends)}; refused for {dict(self.reasons)}")
        assert self.ends["finished"] > 0.8 * NUM_SCHEMAS, self.ends


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The model is too small for two, which would wait for each other."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def form_of(schema: dict[str, Any]) -> str:
    return library_form(Grammar("json_schema", json.dumps(schema)), {})


@pytest.fixture(scope="module")
def demo_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(demo_files(), None, tmp_path_factory.mktemp("cache"))


def test_random_ways_with_the_demo_tokens(demo_tokenizer: Tokenizer) -> None:
    vocab_size = demo_tokenizer.vocab_size
    tokens = library_tokenizer(demo_tokenizer, vocab_size)
    closing = np.array([any(mark in demo_tokenizer.token_bytes(token) for mark in b'"}]') for token in range(vocab_size)])
    counts, random = Counts(), np.random.default_rng(0)
    with compiling_pool() as pool:
        for _, schema in make_schemas(NUM_SCHEMAS):
            try:
                matcher = pool.submit(compiled, form_of(schema), tokens).result()
            except ValueError as problem:
                counts.refuse(problem)
                continue
            text = _random_way(matcher, demo_tokenizer, closing, random)
            if text is None:
                counts.ends["cut"] += 1
            else:
                counts.check(schema, text)
    counts.report("random ways")


def _random_way(matcher: Any, tokenizer: Tokenizer, closing: np.ndarray[Any, Any], random: np.random.Generator) -> str | None:
    """The text of a way to the end; None if that is not reached. Tokens that close something are taken more often than others."""
    token_ids: list[int] = []
    allowed = allocate_token_bitmask(1, len(closing) + 1)
    while len(token_ids) < MAX_TOKENS:
        fill_next_token_bitmask(matcher, allowed)
        assert not matcher.is_error(), matcher.get_error()
        bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")[: len(closing) + 1]
        choices = np.flatnonzero(bits[:-1])
        if bits[-1] and (len(choices) == 0 or random.random() < 0.5):
            return tokenizer.decode(token_ids, skip_special_tokens=False)
        closers = choices[closing[choices]]
        token_ids.append(int(random.choice(closers if len(closers) and random.random() < 0.3 else choices)))
        assert matcher.consume_token(token_ids[-1]), matcher.get_error()
    return None


def test_an_engine_with_random_weights(tmp_path: Path) -> None:
    make_tiny_model("llama", tmp_path, vocab_size=264, num_hidden_layers=1, max_position_embeddings=2048)
    tokenizer = byte_level_tokenizer()
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    engine = make_engine(resolve_model(str(tmp_path), cache_dir=tmp_path / "cache"), load_tokenizer=lambda: tokenizer)
    counts, schemas, requests = Counts(), {}, []
    closers = {token_id: 3.0 for mark in '"}]' for token_id in tokenizer.encode(mark, add_special_tokens=False)}
    for index, (_, schema) in enumerate(make_schemas(NUM_SCHEMAS, seed=1)):
        grammar = Grammar("checked", form_of(schema))
        schemas[str(index)] = schema
        sampling = {"temperature": 1.0, "seed": index, "max_tokens": MAX_TOKENS, "eos_token_ids": tokenizer.eos_token_ids}
        requests.append(request(str(index), [1, 2, 3], grammar=grammar, logit_bias=closers, **sampling))
    random = Random(0)
    random.shuffle(requests)
    for request_id, output, error in _run(engine, requests):
        if error is not None:
            counts.refuse(ValueError(error))
        elif output.finish_reason is FinishReason.LENGTH:
            counts.ends["cut"] += 1
        else:
            assert output.finish_reason is FinishReason.STOP
            counts.check(schemas[request_id], tokenizer.decode(output.token_ids, skip_special_tokens=True))
    counts.report("random weights")


def _run(engine: Any, requests: list[Any]) -> list[tuple[str, Output, str | None]]:
    outputs = {one.request_id: Output() for one in requests}
    errors: dict[str, str | None] = {}
    for one in requests:
        engine.add_request(one)
    while len(errors) < len(requests):
        for delta in engine.step().deltas:
            output = outputs[delta.request_id]
            output.token_ids += delta.token_ids
            if delta.finish_reason is not None:
                output.finish_reason, errors[delta.request_id] = delta.finish_reason, delta.error
        engine.settle()
    return [(request_id, output, errors[request_id]) for request_id, output in outputs.items()]
