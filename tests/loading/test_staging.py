from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headway.server.loading.staging import StagedCopy, copy_for, pieces


@pytest.mark.parametrize(
    ("num_rows", "row_bytes", "piece_bytes", "expected"),
    [
        (0, 4, 16, []),
        (3, 4, 16, [(0, 3)]),
        (4, 4, 16, [(0, 4)]),
        (5, 4, 16, [(0, 4), (4, 5)]),
        (5, 6, 16, [(0, 2), (2, 4), (4, 5)]),
        (2, 16, 16, [(0, 1), (1, 2)]),
    ],
)
def test_rows_are_cut_into_pieces(num_rows: int, row_bytes: int, piece_bytes: int, expected: list[tuple[int, int]]) -> None:
    assert [(piece.start, piece.stop) for piece in pieces(num_rows, row_bytes, piece_bytes)] == expected


@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 123), (3, 0), (1, 300), (130, 3, 2)])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_staged_copy_is_a_copy(shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Rows of 300 fp32 numbers are larger than a buffer."""
    source_dtype, target_dtype = dtypes
    copy = StagedCopy(torch.device("cpu"), buffer_bytes=512, num_buffers=2)
    for seed in range(3):
        source = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(source_dtype)
        target = torch.full(shape, 7.0, dtype=target_dtype)
        copy(target, source)
        assert target.equal(source.to(target_dtype))


def test_cut_tensors_keep_their_strides() -> None:
    whole, wide = torch.randn(40, 12), torch.zeros(40, 30)
    StagedCopy(torch.device("cpu"), buffer_bytes=100)(wide[:, 4:10], whole[:, 6:])
    assert wide[:, 4:10].equal(whole[:, 6:])
    assert not wide[:, :4].any()
    assert not wide[:, 10:].any()


def test_a_cpu_needs_no_buffers() -> None:
    assert copy_for(torch.device("cpu")) is Tensor.copy_
