"""Which ranks hold which experts of a layer, chosen by the load that they had, and what has to move for it. No torch.

A placement has the same number of slots on every rank; an expert is in one slot or, on ranks beside each other, in several (replicas).
The load of an expert is shared evenly by its replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Placement = tuple[tuple[int, ...], ...]  # of each rank the expert in each of its slots, no expert twice


@dataclass(frozen=True, slots=True)
class Move:
    """An expert's weights from a slot of one rank, where they stay until all moves are made, to a slot of another."""

    expert: int
    source: int
    source_slot: int
    target: int
    target_slot: int


def first_placement(num_experts: int, num_ranks: int, num_redundant: int) -> Placement:
    """In their order, replicas of the first ones last. The ranks must share all slots evenly, and none has more than there are experts."""
    num_slots, rest = divmod(num_experts + num_redundant, num_ranks)
    assert not rest, f"{num_ranks} ranks can't share {num_experts + num_redundant} slots"
    assert num_slots <= num_experts, "a second replica on the same rank would be of no use"
    return tuple(tuple((rank * num_slots + slot) % num_experts for slot in range(num_slots)) for rank in range(num_ranks))


def balanced_placement(loads: Sequence[int], before: Placement) -> Placement:
    """With as many slots as ``before`` one whose busiest rank has less to do under ``loads``, one an expert; ``before`` itself if none is
    found. Replicas go, one after the other, to the expert whose replicas have most to do; then the busiest replicas are placed first,
    each on the rank that has least so far (greedy packing, as for identical machines: Graham, 1969)."""
    counts = _replica_counts(loads, sum(map(len, before)), len(before))
    shares = [load / count for load, count in zip(loads, counts, strict=True)]
    groups = _packed(shares, counts, len(before), len(before[0]))
    after = _near(groups, before)
    return after if max(rank_loads(loads, after)) < max(rank_loads(loads, before)) else before


def rank_loads(loads: Sequence[int], placement: Placement) -> list[float]:
    """What each rank has to do."""
    counts = [0] * len(loads)
    for slots in placement:
        for expert in slots:
            counts[expert] += 1
    return [sum(loads[expert] / counts[expert] for expert in slots) for slots in placement]


def moves_between(before: Placement, after: Placement) -> list[Move]:
    """What has to move, the same list on all ranks. Of several ranks that hold an expert the one sends it that sends least so far."""
    holders: dict[int, list[tuple[int, int]]] = {}
    for rank, slots in enumerate(before):
        for slot, expert in enumerate(slots):
            holders.setdefault(expert, []).append((rank, slot))
    num_sent, found = [0] * len(before), []
    for target, slots in enumerate(after):
        for slot, expert in enumerate(slots):
            if before[target][slot] != expert:
                source, source_slot = min(holders[expert], key=lambda place: (num_sent[place[0]], place))
                num_sent[source] += 1
                found.append(Move(expert, source, source_slot, target, slot))
    return found


def _replica_counts(loads: Sequence[int], num_slots: int, num_ranks: int) -> list[int]:
    counts = [1] * len(loads)
    for _ in range(num_slots - len(loads)):
        spare = (expert for expert in range(len(loads)) if counts[expert] < num_ranks)
        counts[max(spare, key=lambda expert: (loads[expert] / counts[expert], -counts[expert], -expert))] += 1
    return counts


def _packed(shares: Sequence[float], counts: Sequence[int], num_ranks: int, num_slots: int) -> list[set[int]]:
    """The experts of each rank."""
    groups: list[set[int]] = [set() for _ in range(num_ranks)]
    sums = [0.0] * num_ranks
    for expert in sorted(range(len(shares)), key=lambda expert: (-shares[expert], expert)):
        for _ in range(counts[expert]):
            free = [rank for rank in range(num_ranks) if len(groups[rank]) < num_slots]
            fitting = [rank for rank in free if expert not in groups[rank]] or [_make_room(groups, sums, shares, free[0], expert)]
            rank = min(fitting, key=lambda rank: (sums[rank], rank))
            groups[rank].add(expert)
            sums[rank] += shares[expert]
    return groups


def _make_room(groups: list[set[int]], sums: list[float], shares: Sequence[float], free: int, expert: int) -> int:
    """A rank without ``expert`` gives its least busy to ``free``, which has room but also ``expert``. There is one: no expert has more
    replicas than there are ranks, and whoever has no room has more experts than ``free``."""
    full = [rank for rank in range(len(groups)) if expert not in groups[rank]]
    movable = [(shares[other], other, rank) for rank in full for other in groups[rank] - groups[free]]
    share, other, rank = min(movable)
    groups[rank].remove(other)
    groups[free].add(other)
    sums[rank] -= share
    sums[free] += share
    return rank


def _near(groups: list[set[int]], before: Placement) -> Placement:
    """Each group where most of it is already, its experts in the slots that they have there."""
    overlaps = ((-len(group & set(slots)), rank, at) for at, group in enumerate(groups) for rank, slots in enumerate(before))
    group_of: dict[int, set[int]] = {}
    taken: set[int] = set()
    for _, rank, at in sorted(overlaps):
        if rank not in group_of and at not in taken:
            group_of[rank] = groups[at]
            taken.add(at)
    placed = []
    for rank, slots in enumerate(before):
        new = iter(sorted(group_of[rank] - set(slots)))
        placed.append(tuple(expert if expert in group_of[rank] else next(new) for expert in slots))
    return tuple(placed)
