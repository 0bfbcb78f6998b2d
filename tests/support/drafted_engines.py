"""A small engine with drafts of any kind, and the same one without, for tests that compare them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from any_load import TOKENIZER, Run, V
from engine_driver import make_engine
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.engine.speculative.drafting import Drafting
from headway.server.source.files import ModelFiles
from headway.server.stats import DraftStats
from headway.server.types import GenerateRequest


class FreeCosts:
    """Costs of steps in which further rows cost nothing, so that no draft is left out."""

    def seconds(self, num_tokens: int) -> float:
        return 1.0

    def learn(self, num_tokens: int, seconds: float) -> None:
        pass


@cache
def files() -> ModelFiles:
    return make_tiny_model("llama", Path(mkdtemp()), seed=1, vocab_size=V, num_hidden_layers=2)


def make_small(
    *, speculative: dict[str, Any] | None = None, draft_files: ModelFiles | None = None, num_blocks: int = 64, **scheduler: Any
) -> EngineCore:
    """Of ``files()``. Each draft is worth it."""
    engine = make_engine(
        files(),
        load_tokenizer=lambda: TOKENIZER,
        draft_files=draft_files,
        model={"max_model_len": 48},
        cache={"num_gpu_blocks_override": num_blocks, "block_size": 4},
        scheduler=scheduler,
        speculative={"speculative_config": speculative or {}},
    )
    if speculative:
        drafting_of(engine)._costs = FreeCosts()  # type: ignore[assignment]
    return engine


def drafting_of(engine: EngineCore) -> Drafting:
    drafting = engine._scheduler._drafting  # type: ignore[attr-defined]
    assert isinstance(drafting, Drafting)
    return drafting


def drafts_of(engine: EngineCore) -> DraftStats:
    stats = engine.stats().drafts
    assert stats is not None
    return stats


@cache
def _plain() -> EngineCore:
    return make_small()


def alone(requests: list[GenerateRequest]) -> Run:
    run = Run()
    for one in requests:
        _plain().add_request(one)
    return run.finish(_plain())
