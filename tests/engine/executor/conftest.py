"""Engines whose rank 0 is this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """Rank 0 takes its share of them for good."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
