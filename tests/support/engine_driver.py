"""Drives a real EngineCore in this process: no sockets, no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headway.server.config.server import ServerConfig
from headway.server.engine.build import build_engine
from headway.server.engine.core import EngineCore
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import AdapterRef, FinishReason, GenerateRequest, SamplingParams, TokenLogprobs


@dataclass
class Output:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0


def make_engine(
    files: ModelFiles,
    *,
    load_tokenizer: Callable[[], Tokenizer] | None = None,
    draft_files: ModelFiles | None = None,
    **topics: dict[str, Any],
) -> EngineCore:
    """An engine on the CPU in float32 unless told otherwise: ``make_engine(files, cache={"num_gpu_blocks_override": 8})``."""
    model = {"model": files.name, "device": "cpu", "dtype": "float32", "max_model_len": 2048, **topics.pop("model", {})}
    config = ServerConfig.model_validate({"model": model, **topics})
    return build_engine(config, files, load_tokenizer=load_tokenizer, draft_files=draft_files)


def request(request_id: str, prompt: list[int], **sampling: Any) -> GenerateRequest:
    parameters = {"temperature": 0.0, "max_tokens": 16, **sampling}
    return GenerateRequest(request_id, prompt, SamplingParams(**parameters), arrival_time=time.time())


def run(
    engine: EngineCore,
    requests: list[GenerateRequest],
    *,
    stagger: int = 0,
    max_steps: int = 100_000,
    outputs: dict[str, Output] | None = None,
) -> dict[str, Output]:
    """Runs the requests to their ends. With ``stagger`` a new one arrives every so many steps. ``outputs``: of those that are open."""
    outputs = {r.request_id: Output() for r in requests} if outputs is None else outputs
    waiting = list(requests)
    step = 0
    while waiting or engine.has_work:
        if waiting and (stagger == 0 or step % stagger == 0):
            for arriving in waiting[: 1 if stagger else None]:
                engine.add_request(arriving)
            del waiting[: 1 if stagger else None]
        for delta in engine.step().deltas:
            output = outputs[delta.request_id]
            assert output.finish_reason is None, "nothing may follow the terminal delta"
            output.token_ids += delta.token_ids
            output.logprobs += delta.logprobs or []
            output.prompt_logprobs = delta.prompt_logprobs or output.prompt_logprobs
            output.finish_reason = delta.finish_reason
            output.num_cached_tokens = max(output.num_cached_tokens, delta.num_cached_tokens)
            if delta.times is not None:
                output.num_preemptions = delta.times.num_preemptions
            assert delta.error is None, delta.error
        if engine.waits_for_others:  # files are read, or blocks copied
            time.sleep((engine.patience_ms or 1) / 1000)
        step += 1
        assert step < max_steps, "the engine makes no progress"
    while engine.patience_ms is not None and not engine.awaits_grammars:  # blocks are being copied
        engine.settle()
    engine.check_idle()
    assert engine.stats().num_blocks_used == 0
    return outputs


def add_adapter(engine: EngineCore, adapter: AdapterRef) -> None:
    """Reads it too, and places it if there is a place. Raises what is wrong with it."""
    answers: list[Exception | None] = []
    engine.add_adapter(adapter, preload=True, is_pinned=False, done=answers.append)
    while not answers:
        engine.step()
    if answers[0] is not None:
        raise answers[0]
