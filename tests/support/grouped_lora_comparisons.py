"""Low-rank adapters in 8 bits: slots of two implementations with the same random updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.cpu import grouped_lora as compiled
from headway.kernels.grouped_lora import GroupedSlots, add_grouped_lora, grouped_slots, round_update
from headway.kernels.lora import prepare_lora
from headway.kernels.plans import LoraPlan
from headway.kernels.reference import grouped_lora as reference

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Adapters:
    slots: GroupedSlots  # as the package takes them
    plain: GroupedSlots  # of the reference
    exact: dict[tuple[int, int], Tensor]  # slot, part -> [N, K] before rounding


def make_adapters(in_features: int, lengths: tuple[int, ...], ranks: tuple[int, ...], *, max_rank: int = 0, seed: int = 0) -> Adapters:
    """For each rank a slot, whose part 1 has no update where there are several. Bytes that no rank reaches hold anything."""
    generator = torch.Generator().manual_seed(seed)
    spans = [(sum(lengths[:i]), length) for i, length in enumerate(lengths)]
    max_rank = max_rank or max(ranks)
    slots = grouped_slots(len(ranks), max_rank, in_features, spans, CPU)
    plain = GroupedSlots(in_features, tuple(spans), reference.make_slots(len(ranks), max_rank, in_features, tuple(spans)), reference)
    for tensor in slots.tensors():
        tensor.fill_(255)
    exact = {}
    for slot, rank in enumerate(ranks):
        for part, length in enumerate(lengths):
            if not rank or (slot == 1 and part == 1):
                continue
            a = torch.randn(rank, in_features, generator=generator) * 10.0 ** torch.randint(-4, 2, (rank, 1), generator=generator)
            b = torch.randn(length, rank, generator=generator) / in_features / a.abs().amax(dim=1)
            exact[slot, part] = b @ a
            for each in (slots, plain):
                each.put(slot, part, rank, each.pack(round_update(a, b)))
    return Adapters(slots, plain, exact)


def plan_of(slots: list[int]) -> LoraPlan:
    return prepare_lora(torch.tensor(slots, dtype=torch.int64), CPU)


def compare_adapters(in_features: int, lengths: tuple[int, ...], ranks: tuple[int, ...], slots: list[int]) -> None:
    """The compiled kernel with the reference, and a token alone with it among the others, to the bit."""
    adapters = make_adapters(in_features, lengths, ranks, max_rank=max(ranks) + 3)
    assert isinstance(adapters.slots.data, compiled.Slots)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(slots), in_features + 2, generator=generator)[:, 1:-1]
    before = torch.randn(len(slots), sum(lengths) + 3, generator=generator)
    found, expected = before.clone(), before.clone()
    add_grouped_lora(found, x, adapters.slots, plan_of(slots))
    add_grouped_lora(expected, x, adapters.plain, plan_of(slots))
    # A number between A and B next to the middle of two steps may be rounded to the other one: 1 / 127 of the largest.
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    assert (found - expected).abs().sum() <= 1e-3 * (expected - before).abs().sum()
    without = [i for i, slot in enumerate(slots) if slot < 0 or not ranks[slot]]
    assert found[without].equal(before[without])
    assert found[:, sum(lengths) :].equal(before[:, sum(lengths) :])
    for i, slot in enumerate(slots):
        alone = before[i : i + 1].clone()
        add_grouped_lora(alone, x[i : i + 1], adapters.slots, plan_of([slot]))
        assert alone[0].equal(found[i]), "it does not depend on the other tokens"
