"""Where the engines of one server run."""

from __future__ import annotations

import pytest
import torch

from headway.server.engine.device import choose_device, share_threads
from headway.server.errors import ConfigError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """What was made the current device."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_each_engine_takes_a_gpu_of_its_own(two_gpus: list[torch.device]) -> None:
    devices = [choose_device(asked, index, 2) for asked, index in (("auto", 0), ("cuda", 1))]
    assert devices == two_gpus == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert choose_device("cpu", 1, 4) == torch.device("cpu")


@pytest.mark.parametrize("index", [0, 3])
def test_too_few_gpus_end_the_start_in_every_engine(two_gpus: list[torch.device], index: int) -> None:
    with pytest.raises(ConfigError, match=r"--data-parallel-size 4 needs a GPU for each engine, and 2 GPUs can be seen here: lower it, or"):
        choose_device("auto", index, 4)


@pytest.mark.parametrize(("num_threads", "num_engines", "each"), [(8, 1, 8), (8, 3, 2), (2, 4, 1)])
def test_threads_are_shared(num_threads: int, num_engines: int, each: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        share_threads(num_engines)
        assert torch.get_num_threads() == each
    finally:
        torch.set_num_threads(before)
