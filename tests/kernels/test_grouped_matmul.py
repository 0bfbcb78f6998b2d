"""Products of grouped weights: compiled and in torch against the reference, and the reference against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from matmul_comparisons import MATMUL_SHAPES, assert_close, make_linear, packed_by, random_groups

from headway.kernels.cpu import grouped_matmul
from headway.kernels.grouped_layout import round_to_groups, stack_rows
from headway.kernels.grouped_matmul import GroupedPacker, grouped_linear, pack_grouped
from headway.kernels.reference import grouped_matmul as reference

# More rows than stay in registers, than stay in a cache, and every remainder.
SHAPES = [*MATMUL_SHAPES, (3, 64, 32), (7, 32, 16), (130, 70, 17)]


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference(shape: tuple[int, int, int], bits: int, strided: bool) -> None:
    x, _, bias = make_linear(shape, torch.float32, "cpu", strided=strided)
    weight = random_groups(shape[2], x.shape[1], bits)
    for add in (None, bias):
        expected = reference.grouped_linear(x, packed_by(reference, weight), add)
        assert_close(grouped_matmul.grouped_linear(x, packed_by(grouped_matmul, weight), add), expected, error=20)


def test_a_rows_result_does_not_depend_on_the_others() -> None:
    packed = pack_grouped(random_groups(48, 96, 4))
    x = torch.randn(9, 96, generator=torch.Generator().manual_seed(1))
    together = grouped_linear(x, packed)
    for row in range(9):
        torch.testing.assert_close(grouped_linear(x[row : row + 1], packed)[0], together[row], atol=0, rtol=1e-6)


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_may_come_one_after_the_other(bits: int) -> None:
    """In spans that no tile divides, some with fewer bits."""
    weight, x = random_groups(101, 96, 4), torch.randn(3, 96, generator=torch.Generator().manual_seed(1))
    packer = GroupedPacker(101, 96, bits, torch.device("cpu"))
    for first, count in ((0, 5), (5, 48), (53, 1), (54, 40), (94, 7)):
        assert not packer.is_full
        packer.put(weight.narrow(0, first, count))
    assert packer.is_full
    torch.testing.assert_close(grouped_linear(x, packer.packed), grouped_linear(x, pack_grouped(weight)), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="rows have 8 bits, and the weight 4"):
        GroupedPacker(16, 96, 4, torch.device("cpu")).put(random_groups(16, 96, 8))


def test_rounds_inputs_in_groups_of_32() -> None:
    """A large value takes the precision of its own group only."""
    x = torch.full((1, 64), 0.3)
    x[0, 0] = 1270.0
    identity = round_to_groups(127 * torch.eye(64))
    found = grouped_linear(x, pack_grouped(identity))[0] / 127
    assert found[1:32].abs().max() == 0
    torch.testing.assert_close(found[32:], x[0, 32:], rtol=1e-3, atol=0)
    torch.testing.assert_close(found[0], x[0, 0], rtol=1e-3, atol=0)


def test_rounding_again_changes_nothing() -> None:
    rounded = round_to_groups(torch.randn(5, 70, generator=torch.Generator().manual_seed(0)))
    again = round_to_groups(rounded.dequantize())
    assert torch.equal(again.values, rounded.values)
    assert torch.equal(again.scale, rounded.scale)


def test_parts_of_a_weight() -> None:
    weight = random_groups(6, 96, 4)
    whole = weight.dequantize()
    assert torch.equal(weight.narrow(0, 2, 3).dequantize(), whole[2:5])
    assert torch.equal(weight.narrow(1, 32, 64).dequantize(), whole[:, 32:])
    with pytest.raises(ValueError, match="cut a group"):
        weight.narrow(1, 16, 32)
    wide = random_groups(2, 96, 8)
    stacked = stack_rows([weight, wide])
    assert stacked.bits == 8
    assert torch.equal(stacked.dequantize(), torch.cat([whole, wide.dequantize()]))
