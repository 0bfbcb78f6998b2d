"""Drafts where several ranks compute a step: they all find the same ones right, or would wait for each other's exchanges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from any_load import OPTIONS, TOKENIZER, Run, V, assert_same
from drafted_engines import FreeCosts, drafting_of
from engine_driver import make_engine, request
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.source.files import ModelFiles

PROMPT = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6]
LAYOUTS: dict[str, dict[str, int]] = {
    "heads": {"tensor_parallel_size": 2},
    "sequences": {"tensor_parallel_size": 2, "decode_context_parallel_size": 2},
    "prompts": {"prefill_context_parallel_size": 2},
}


class _Continuation:
    """Guesses that all goes on as it began: right often enough, and wrong."""

    def propose(self, request_id: str, token_ids: list[int], num_drafts: int) -> list[int]:
        return [token_ids[-1]] * num_drafts if len(token_ids) % 3 else [(token_ids[-1] + 1) % V] * num_drafts

    def forget(self, request_id: str) -> None:
        pass


def engine_of(files: ModelFiles, parallel: dict[str, int], speculative: dict[str, Any]) -> EngineCore:
    return make_engine(
        files,
        load_tokenizer=lambda: TOKENIZER,
        model={"max_model_len": 64},
        cache={"num_gpu_blocks_override": 40, "block_size": 4},
        scheduler={"max_num_batched_tokens": 24, "max_num_seqs": 4},
        parallel=parallel,
        speculative={"speculative_config": speculative},
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_option_gives_the_tokens_of_one_process_without_drafts(layout: str, tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path, seed=1, vocab_size=V, num_hidden_layers=2, num_key_value_heads=1)
    requests = [request(f"r{i}", PROMPT, **{"max_tokens": 12, "ignore_eos": "grammar" not in one, **one}) for i, one in enumerate(OPTIONS)]
    runs = []
    for parallel, speculative in (({}, {}), (LAYOUTS[layout], {"method": "ngram", "num_speculative_tokens": 3})):
        engine = engine_of(files, parallel, speculative)
        if speculative:
            drafting = drafting_of(engine)
            drafting._proposer, drafting._costs = _Continuation(), FreeCosts()  # type: ignore[assignment]
        try:
            for one in requests:
                engine.add_request(one)
            runs.append(Run().finish(engine))
            stats = engine.stats().drafts
            assert not speculative or (stats is not None and 0 < stats.num_accepted_tokens < stats.num_draft_tokens)
        finally:
            engine.shutdown()
    assert_same(runs[1], runs[0])
