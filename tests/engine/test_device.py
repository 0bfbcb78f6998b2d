"""Where the engines of one server run."""

from __future__ import annotations

import pytest
import torch

from headway.server.config.parallel import ParallelConfig
from headway.server.engine.device import check_gpus, choose_device, num_devices, occupy, share_threads
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
    devices = [choose_device(asked, index) for asked, index in (("auto", 0), ("cuda", 1))]
    for device in devices:
        check_gpus(device, 2, ParallelConfig())
        occupy(device)
    assert devices == two_gpus == [torch.device("cuda", 0), torch.device("cuda", 1)]
    cpu = choose_device("cpu", 1)
    assert cpu == torch.device("cpu")
    check_gpus(cpu, 4, ParallelConfig(tensor_parallel_size=2))


@pytest.mark.parametrize(
    ("num_engines", "parallel", "sentence"),
    [
        (4, {}, "--data-parallel-size 4 needs a GPU for each engine, and 2 GPUs can be seen here: lower it, or"),
        (
            2,
            {"tensor_parallel_size": 2},
            "--data-parallel-size 2 with --tensor-parallel-size 2 needs 4 GPUs, and 2 GPUs can be seen here: lower one of them, or",
        ),
        (
            2,
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 3},
            "2 with --tensor-.* 2 and --pipeline-parallel-size 3 needs 12 GPUs,",
        ),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_too_few_gpus_end_the_start(num_engines: int, parallel: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_gpus(choose_device("auto", 3), num_engines, ParallelConfig(**parallel))


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_shared() -> None:
    assert [num_devices(torch.device("cuda"), num_engines) for num_engines in (1, 2)] == [2, 1]
    assert num_devices(torch.device("cpu"), 2) is None


@pytest.mark.parametrize(("num_threads", "num_engines", "each"), [(8, 1, 8), (8, 3, 2), (2, 4, 1)])
def test_threads_are_shared(num_threads: int, num_engines: int, each: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        share_threads(num_engines)
        assert torch.get_num_threads() == each
    finally:
        torch.set_num_threads(before)
