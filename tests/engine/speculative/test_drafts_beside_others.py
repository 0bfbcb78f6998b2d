"""Drafts beside what else an engine does with a request's tokens, its pages or its weights: the same answers, and some drafts right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from any_load import TOKENIZER, Run, V, assert_same
from drafted_engines import FreeCosts, drafting_of, drafts_of
from engine_driver import add_adapter, make_engine, request
from msgspec.structs import replace
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest, ProcessorChoice

PROMPT = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6]


class Repetition:
    """Guesses that the newest token comes again, and at every third place another one."""

    def propose(self, request_id: str, token_ids: list[int], num_drafts: int) -> list[int]:
        return [token_ids[-1] if len(token_ids) % 3 else 9] * num_drafts

    def forget(self, request_id: str) -> None:
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"), seed=1, vocab_size=V, num_hidden_layers=2)


def pair(files: ModelFiles, num_blocks: int = 40, **topics: Any) -> tuple[EngineCore, EngineCore]:
    """(without drafts, with them)"""
    cache = {"num_gpu_blocks_override": num_blocks, "block_size": 4, **topics.pop("cache", {})}
    plain, drafted = (
        make_engine(
            files,
            load_tokenizer=lambda: TOKENIZER,
            model={"max_model_len": 64},
            cache=cache,
            speculative={"speculative_config": speculative},
            **topics,
        )
        for speculative in ({}, {"method": "ngram", "num_speculative_tokens": 3})
    )
    drafting = drafting_of(drafted)
    drafting._proposer, drafting._costs = Repetition(), FreeCosts()  # type: ignore[assignment]
    return plain, drafted


def finish(engine: EngineCore, requests: list[GenerateRequest]) -> Run:
    for one in requests:
        engine.add_request(one)
    return Run().finish(engine)


def asks(**sampling: Any) -> list[GenerateRequest]:
    """Greedy and drawn, of which some say one token over and over."""
    options = ({}, {"logit_bias": {5: 99.0}}, {"temperature": 1.0, "seed": 3})
    return [request(f"r{i}", PROMPT, **{"max_tokens": 16, "ignore_eos": True, **one, **sampling}) for i, one in enumerate(options)]


def assert_drafts_were_used(engine: EngineCore) -> None:
    drafts = drafts_of(engine)
    assert 0 < drafts.num_accepted_tokens < drafts.num_draft_tokens


def test_adapters(files: ModelFiles, tmp_path: Path) -> None:
    plain, drafted = pair(files, lora={"enable_lora": True, "max_loras": 2})
    for engine in plain, drafted:
        for key in 1, 2:
            path = tmp_path / str(key)
            if not path.exists():
                make_adapter(path, read_config(files), seed=key)
            add_adapter(engine, AdapterRef(key, str(key), str(path)))
    requests = [replace(one, request_id=f"{key}-{one.request_id}", adapter_id=key) for key in (None, 1, 2) for one in asks()]
    expected = finish(plain, requests)
    assert len({tuple(expected.tokens[f"{key}-r0"]) for key in (None, 1, 2)}) == 3
    assert_same(finish(drafted, requests), expected)
    assert_drafts_were_used(drafted)


@pytest.mark.parametrize("pages", ["fp8", "int8"])
def test_rounded_pages(files: ModelFiles, pages: str) -> None:
    plain, drafted = pair(files, cache={"kv_cache_dtype": pages})
    assert_same(finish(drafted, asks()), finish(plain, asks()))
    assert_drafts_were_used(drafted)


def test_logits_processors(files: ModelFiles) -> None:
    """They see the drafts before each place as if they were output."""
    names = [f"user_processors:{name}" for name in ("ForceToken", "CountUp", "only_prompt_tokens", "never")]
    plain, drafted = pair(files, extension={"logits_processors": names})
    requests = [
        request("force", PROMPT, extra_args={"force_token": 4}, ignore_eos=True),
        request("count", PROMPT, extra_args={"count_up": True}, ignore_eos=True),
        request("prompt", PROMPT, logits_processors=(ProcessorChoice("user_processors:only_prompt_tokens", None),), ignore_eos=True),
        request("never", PROMPT, logits_processors=(ProcessorChoice("user_processors:never", [5, 6]),), ignore_eos=True),
    ]
    run = finish(drafted, requests)
    assert_same(run, finish(plain, requests))
    assert run.tokens["force"] == [4] * 16
    assert run.tokens["count"] == list(range(16))
    assert_drafts_were_used(drafted)


def test_offloaded_blocks(files: ModelFiles) -> None:
    """Of a cache that holds one request at a time; those of tokens that were drafted too."""
    plain, drafted = pair(files, num_blocks=14, kv_transfer={"kv_offloading_size": 0.05})
    runs = []
    for engine in plain, drafted:
        run = Run()
        for turn in range(2):
            for one in asks():
                again = [*PROMPT, *run.tokens[f"0-{one.request_id}"]] if turn else one.prompt_token_ids
                engine.add_request(replace(one, request_id=f"{turn}-{one.request_id}", prompt_token_ids=again))
                while engine.has_work or engine.patience_ms is not None:
                    run.turn(engine)
        engine.check_idle()
        runs.append(run)
        transfers = engine.stats().transfers
        assert transfers is not None
        assert transfers.num_fetched_tokens > 0
        engine.shutdown()
    assert_same(runs[1], runs[0])
    assert_drafts_were_used(drafted)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_sleep(files: ModelFiles, level: int) -> None:
    """Requests are kept in the midst of their drafts."""
    plain, drafted = pair(files)
    expected = finish(plain, asks())
    run = Run()
    for one in asks():
        drafted.add_request(one)
    for _ in range(3):
        run.turn(drafted)
    answers: list[Exception | None] = []
    drafted.sleep(level, "keep", answers.append)
    for _ in range(2):
        run.turn(drafted)
    assert answers == [None]
    assert run.ends == {}
    drafted.wake_up(None)
    assert_same(run.finish(drafted), expected)
    assert_drafts_were_used(drafted)
