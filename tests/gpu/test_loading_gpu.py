"""Weights on their way to a GPU. Run with `pytest -m gpu`; prints the rate of the copy, which no test judges."""

from __future__ import annotations

import time

import pytest
import torch

from headway.server.loading.staging import StagedCopy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
def test_pieces_arrive_while_buffers_are_used_again(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Far more pieces than buffers: one that is overwritten before it was sent would show."""
    device = torch.device("cuda")
    source = torch.randn(1000, 333).to(dtypes[0])
    target = torch.zeros(1000, 333, dtype=dtypes[1], device=device)
    copy = StagedCopy(device, buffer_bytes=4096, num_buffers=2)
    for _ in range(3):
        target.zero_()
        copy(target, source)
        assert target.cpu().equal(source.to(dtypes[1]))


def test_rate_of_a_large_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    device = torch.device("cuda")
    source, target = torch.ones(2**29, dtype=torch.bfloat16), torch.empty(2**29, dtype=torch.bfloat16, device=device)
    rates = {}
    for name, copy in (("staged", StagedCopy(device)), ("pageable", torch.Tensor.copy_)):
        copy(target, source)
        torch.cuda.synchronize()
        since = time.perf_counter()
        copy(target, source)
        torch.cuda.synchronize()
        rates[name] = source.nbytes / (time.perf_counter() - since) / 1e9
    with capsys.disabled():
        print({name: f"{rate:.1f} GB/s" for name, rate in rates.items()})
    assert target.cpu().equal(source)
