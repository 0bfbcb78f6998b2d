"""Beam search over a real engine against transformers' on the same tiny model, and how a search ends otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from core_client import CoreClient
from engine_driver import make_engine, request
from tiny_models import make_tiny_model, transformers_model

from headway.server.api.serving.beam import beam_streams
from headway.server.engine.core import EngineCore
from headway.server.errors import QueueFull
from headway.server.source.files import ModelFiles
from headway.server.types import FinishReason, GenerateRequest, TokenDelta

PROMPTS = [[5, 6, 7], [40, 3, 99, 200, 17, 6, 81, 5, 5], [250]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("tiny")), seed=1)


@pytest.fixture(scope="module")
def reference(files: ModelFiles) -> Any:
    return transformers_model(files)


@pytest.fixture(scope="module")
def core(files: ModelFiles) -> Iterator[EngineCore]:
    built = make_engine(files, model={"max_model_len": 64}, cache={"num_gpu_blocks_override": 256, "block_size": 4})
    yield built
    built.shutdown()


def search(client: Any, requests: list[GenerateRequest], width: int, length_penalty: float = 1.0) -> list[TokenDelta]:
    async def all_of() -> list[TokenDelta]:
        streams = beam_streams(client, requests, width, length_penalty, contextlib.nullcontext)
        deltas = []
        for stream in streams:
            own = [delta async for delta in stream]
            assert len(own) == 1, "a sequence comes whole"
            deltas += own
        return deltas

    return asyncio.run(all_of())


def expected(model: Any, prompt: list[int], width: int, length_penalty: float, **options: Any) -> list[list[int]]:
    """transformers' sequences, best first; ended with the first end-of-sequence token, where it pads."""
    eos = options.pop("eos_token_id")
    found = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=width, num_return_sequences=width, do_sample=False,
        early_stopping="never", length_penalty=length_penalty, pad_token_id=258, eos_token_id=eos, **options,
    )[:, len(prompt) :].tolist()  # fmt: skip
    ends = [next((at + 1 for at, token in enumerate(row) if token in eos), len(row)) for row in found]
    return [row[:end] for row, end in zip(found, ends, strict=True)]


@pytest.mark.parametrize(
    ("width", "length_penalty", "num_ends"),
    [(1, 1.0, 1), (2, 1.0, 1), (4, 1.0, 60), (4, 0.0, 60), (3, 2.0, 60), (5, -1.0, 60), (3, 1.0, 3), (8, 0.7, 20)],
)
def test_the_sequences_are_transformers_own(core: EngineCore, reference: Any, width: int, length_penalty: float, num_ends: int) -> None:
    """With many end tokens sequences of all lengths compete."""
    ends = tuple(range(100, 100 + num_ends))
    asked = [request(f"r{i}", prompt, max_tokens=10, eos_token_ids=ends) for i, prompt in enumerate(PROMPTS)]
    found = search(CoreClient(core), asked, width, length_penalty)
    for i, prompt in enumerate(PROMPTS):
        own = found[i * width : (i + 1) * width]
        assert [delta.token_ids for delta in own] == expected(
            reference, prompt, width, length_penalty, eos_token_id=list(ends), max_new_tokens=10
        )
        for delta in own:
            has_ended = delta.token_ids[-1] in ends
            assert delta.finish_reason is (FinishReason.STOP if has_ended else FinishReason.LENGTH)


def test_min_tokens_and_stop_tokens(core: EngineCore, reference: Any) -> None:
    ends = tuple(range(100, 140))
    asked = request("r", PROMPTS[0], max_tokens=10, min_tokens=4, eos_token_ids=ends[:20], stop_token_ids=ends[20:])
    found = search(CoreClient(core), [asked], 4)
    assert [d.token_ids for d in found] == expected(
        reference, PROMPTS[0], 4, 1.0, eos_token_id=list(ends), max_new_tokens=10, min_new_tokens=4
    )
    for delta in found:
        last = delta.token_ids[-1]
        assert delta.stop_reason == (last if last in ends[20:] else None)


def test_logprobs_of_the_answer_and_the_prompt(core: EngineCore, reference: Any) -> None:
    prompt = PROMPTS[1]
    (best, _) = search(CoreClient(core), [request("r", prompt, max_tokens=4, logprobs=3, prompt_logprobs=1)], 2)
    with torch.inference_mode():
        scores = torch.log_softmax(reference(torch.tensor([prompt + best.token_ids])).logits[0].float(), -1)
    assert best.logprobs is not None
    for position, at in enumerate(best.logprobs, start=len(prompt) - 1):
        assert at.logprob == pytest.approx(scores[position, at.token_id].item(), abs=1e-3)
        assert [token for token, _ in at.top] == scores[position].topk(3).indices.tolist()
        assert at.rank == scores[position].argsort(descending=True).tolist().index(at.token_id) + 1
    assert best.prompt_logprobs is not None
    assert [None if at is None else at.token_id for at in best.prompt_logprobs] == [None, *prompt[1:]]


def test_the_prefix_cache_has_what_a_step_needs(core: EngineCore) -> None:
    """A step computes a beam's last block at most, not its whole prompt again."""
    client = CoreClient(core)
    search(client, [request("r", list(range(40)), max_tokens=8)], 3)
    assert client.num_requests == 1 + 7 * 3
    assert client.num_tokens <= 40 + 7 * 3 * 4


def assert_idle(core: EngineCore) -> None:
    core.step()  # tells what was aborted
    assert not core.has_work
    core.check_idle()
    assert core.stats().num_blocks_used == 0


def test_closing_a_stream_aborts_the_search(core: EngineCore) -> None:
    async def leave() -> CoreClient:
        client = CoreClient(core)
        streams = beam_streams(client, [request("r", PROMPTS[0], max_tokens=50)], 3, 1.0, contextlib.nullcontext)
        while client.num_requests <= 1:
            await asyncio.sleep(0)
        for stream in streams:
            await stream.aclose()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
        return client

    client = asyncio.run(leave())
    assert 1 < client.num_requests < 1 + 49 * 3
    assert_idle(core)


def test_time_is_over(core: EngineCore) -> None:
    async def late() -> list[TokenDelta]:
        streams = beam_streams(CoreClient(core), [request("r", PROMPTS[0], max_tokens=50)], 2, 1.0, contextlib.nullcontext)
        streams[0].time_out("too late")
        return [delta for stream in streams async for delta in stream]

    assert [(delta.finish_reason, delta.error) for delta in asyncio.run(late())] == [(FinishReason.TIMEOUT, "too late")] * 2
    assert_idle(core)


def test_no_room_for_a_step_is_told_to_whoever_waits(core: EngineCore) -> None:
    class Full(CoreClient):
        def generate(self, requests: Any) -> Any:
            if self.num_requests > 4:
                raise QueueFull("The queue is full.", 3, "max_num_queued_reqs")
            return super().generate(requests)

    with pytest.raises(QueueFull):
        search(Full(core), [request("r", PROMPTS[0], max_tokens=10)], 3)


def test_a_vocabulary_smaller_than_the_beam_is_wide(core: EngineCore) -> None:
    found = search(CoreClient(core), [request("r", PROMPTS[0], max_tokens=1)], 300)
    assert len(found) == 300
    assert len({delta.token_ids[0] for delta in found}) == 259


def test_a_broken_step_ends_every_stream_with_its_error(core: EngineCore) -> None:
    asked = request("r", [10**6], max_tokens=3)
    found = search(CoreClient(core), [asked], 2)
    assert [delta.finish_reason for delta in found] == [FinishReason.ERROR] * 2
    assert found[0].error
