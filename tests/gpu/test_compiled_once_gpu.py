"""What was compiled when the first requests came serves all others: a kernel compiled between two steps holds up every stream."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import make_engine, request, run
from tiny_models import make_tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_no_number_of_rows_and_no_length_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    files = make_tiny_model("llama", tmp_path, seed=1)
    model = {"max_model_len": 512, "device": "cuda", "dtype": "bfloat16"}
    cache = {"num_gpu_blocks_override": 1024, "block_size": 16}
    engine = make_engine(files, model=model, cache=cache, graphs={"cudagraph_capture_sizes": ["1", "2", "4", "8", "16", "32"]})
    rng = random.Random(0)

    def crowd(lengths: list[int], **sampling: Any) -> None:
        asks = [request(f"r{i}", rng.choices(range(259), k=n), max_tokens=12, ignore_eos=True, **sampling) for i, n in enumerate(lengths)]
        run(engine, asks, stagger=1)

    crowd([64, 100])
    compiled: list[str] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda *, src, **_: compiled.append(src.fn.__name__))
    crowd([rng.randrange(1, 400) for _ in range(30)])
    crowd([rng.randrange(1, 400) for _ in range(30)], temperature=0.8, top_p=0.9)
    assert compiled == []
