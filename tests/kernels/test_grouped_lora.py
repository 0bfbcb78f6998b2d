"""Low-rank updates in 8 bits of a mixed step."""

from __future__ import annotations

import pytest
import torch
from grouped_lora_comparisons import compare_adapters, make_adapters, plan_of

from headway.kernels.cpu.native.library import library
from headway.kernels.grouped_lora import add_grouped_lora, round_update

MIXED = [0, 1, -1, 2, 2, 0, 2, 3, -1, 2, 1, 2, 0]


@pytest.mark.parametrize("shape", [(5, (7,)), (72, (40, 16, 19)), (576, (96, 32))], ids=str)
@pytest.mark.parametrize("ranks", [(16, 8, 5, 0), (3, 33, 48, 0)], ids=str)
@pytest.mark.parametrize("slots", [[2], [-1], [], [2, 2, 2], MIXED, [0] * 40, (MIXED * 5)[:64]], ids=str)
def test_each_token_gets_its_slots_update(slots: list[int], ranks: tuple[int, ...], shape: tuple[int, tuple[int, ...]]) -> None:
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    compare_adapters(*shape, ranks, slots)


@pytest.mark.parametrize("rank", [5, 16, 40])
def test_rounding_costs_a_hundredth(rank: int) -> None:
    """Whatever sizes A's rows have. What rounds the activations is in it."""
    adapters = make_adapters(160, (90,), (rank,))
    x, out = torch.randn(30, 160, generator=torch.Generator().manual_seed(2)), torch.zeros(30, 90)
    add_grouped_lora(out, x, adapters.slots, plan_of([0] * 30))
    expected = x @ adapters.exact[0, 0].t()
    assert (out - expected).norm() < 0.015 * expected.norm()


def test_updates_of_zeros_and_of_no_size_that_halves_have() -> None:
    a, b = torch.zeros(3, 40), torch.ones(5, 3)
    assert round_update(a, b).a.dequantize().equal(a)
    a[1], b[:, 1] = 1e-12, 1e12
    update = round_update(a, b)
    torch.testing.assert_close(update.b() @ update.a.dequantize(), b @ a, rtol=0.01, atol=0)


def test_a_slot_keeps_nothing_of_who_had_it_before() -> None:
    larger, smaller = torch.randn(12, 40), torch.randn(3, 40)
    slots, x = make_adapters(40, (20, 9), (12,)).slots, torch.randn(4, 40)
    alone = make_adapters(40, (20, 9), (12,)).slots
    alone.clear(0)
    for rows in (larger, smaller):
        slots.put(0, 0, len(rows), slots.pack(round_update(rows, torch.ones(20, len(rows)))))
    alone.put(0, 0, 3, alone.pack(round_update(smaller, torch.ones(20, 3))))
    found, expected = torch.zeros(4, 29), torch.zeros(4, 29)
    add_grouped_lora(found, x, slots, plan_of([0] * 4))
    add_grouped_lora(expected, x, alone, plan_of([0] * 4))
    assert found[:, :20].equal(expected[:, :20])
    slots.clear(0)
    add_grouped_lora(expected, x, slots, plan_of([0] * 4))
    assert found[:, :20].equal(expected[:, :20])


def test_tensors_that_do_not_fit_are_refused() -> None:
    slots = make_adapters(40, (20, 9), (4,)).slots
    plan = plan_of([0, 0])
    with pytest.raises(ValueError, match="x has shape"):
        add_grouped_lora(torch.zeros(2, 29), torch.zeros(2, 39), slots, plan)
    with pytest.raises(ValueError, match="parts end at 29"):
        add_grouped_lora(torch.zeros(2, 28), torch.zeros(2, 40), slots, plan)
    with pytest.raises(ValueError, match=r"out is torch\.bfloat16"):
        add_grouped_lora(torch.zeros(2, 29).bfloat16(), torch.zeros(2, 40), slots, plan)
    with pytest.raises(ValueError, match="out has strides"):
        add_grouped_lora(torch.zeros(29, 2).t(), torch.zeros(2, 40), slots, plan)
    with pytest.raises(ValueError, match="a has shape"):
        slots.pack(round_update(torch.zeros(4, 39), torch.zeros(20, 4)))
