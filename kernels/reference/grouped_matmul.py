"""Product of grouped weights in plain torch: the weight is kept as fp32, activations are rounded and brought back."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.grouped_layout import GROUP, GroupedValues


def empty_grouped(num_rows: int, num_columns: int, bits: int) -> tuple[Tensor, int]:
    """Room for what ``put_rows`` puts there, and its bytes."""
    values = torch.empty((num_rows, num_columns))
    return values, values.nbytes


def put_rows(weight: Tensor, first: int, rows: GroupedValues) -> None:
    """At row ``first`` of what ``empty_grouped`` made."""
    weight[first : first + rows.shape[0]] = rows.dequantize()


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See headway.kernels.grouped_matmul.grouped_linear."""
    return torch.nn.functional.linear(rounded(x), weight, bias)


def rounded(x: Tensor, group: int = GROUP) -> Tensor:
    """What 8 bits keep of x [M, K], with one scale for ``group`` columns of a row."""
    num_columns = x.shape[1]
    groups = torch.nn.functional.pad(x, (0, -num_columns % group)).view(len(x), -(-num_columns // group), group)
    largest = groups.abs().amax(dim=2, keepdim=True).clamp_(min=1e-20)
    kept: Tensor = (groups * (127 / largest)).round_() * (largest / 127)
    return kept.flatten(1)[:, :num_columns]
