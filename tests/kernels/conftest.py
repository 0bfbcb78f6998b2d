"""The CPU kernels are tested twice where there are compiled ones: with them, and as they run without a compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from headway.kernels.cpu import (
    activation,
    embedding_lora,
    grouped_matmul,
    norm,
    paged_attention,
    prefill_attention,
    quant_matmul,
    rope,
    sampling,
)
from headway.kernels.cpu.native.library import library


@pytest.fixture(params=["compiled", "torch"])
def cpu_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test on both paths; "compiled" is skipped where the package was installed without a compiler."""
    path: str = request.param
    if path == "compiled" and library() is None:
        pytest.skip("the CPU kernels were not built")
    if path == "torch":

        def none(*_: Any) -> None:
            return None

        for module in (activation, embedding_lora, grouped_matmul, norm, paged_attention, prefill_attention, quant_matmul, rope, sampling):
            if hasattr(module, "function"):
                monkeypatch.setattr(module, "function", none)
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With many threads, rows are dealt to them one by one."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)
