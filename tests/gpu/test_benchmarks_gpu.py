"""The benchmarks of kernels on a CUDA device: what they measure there runs, and is timed by graphs."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)  # transformers looks for a package of that name, and finds ours at the root


def test_kernels_have_rows(tmp_path: Path) -> None:
    """One of each kind, with the limits: a graph, inputs past the cache, sampling without a graph."""
    import kernels

    file = tmp_path / "kernels.json"
    only = r"^silu_and_mul 64x|batch 8, context 2048|^sampling, top-k 50 64x|^(linear|int8|fp8|int4).* qkv 16x|^add_lora 64x"
    assert kernels.main(["--only", only, "--json", str(file)]) == 0  # type: ignore[attr-defined]  # mypy takes the package beside it
    record = json.loads(file.read_text())
    assert record["limits"]["errors"] == {}
    assert len(record["rows"]) == 14
    assert all(row["seconds"] > 0 for row in record["rows"])


def test_tiles_are_searched_with_threads_that_compile() -> None:
    from kernel_case import LLAMA_8B
    from tuned_problems import problems
    from tuning import search

    device = torch.device("cuda")
    found = {problem.name: problem for problem in problems(LLAMA_8B, (16,), device)}
    with ThreadPoolExecutor(8) as pool:
        for name in ("int8_linear 4096x4096 16", "paged_attention 4x128x2 8"):
            best = search(found[name], device, time.perf_counter() + 10, pool)
            assert best is not None, name
            assert not [why for why in best.failures.values() if why.startswith("wrong")]
            assert best.num_timed > 1
            assert best.estimate_s is not None
            assert best.seconds <= best.estimate_s
