"""The experts of one layer that a rank holds where they move between the ranks, some of them on several: expert load balancing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from headway.server.distributed.expert_placement import Move, Placement, moves_between
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.experts import ExpertShape, HeldExperts, StackedExperts
from headway.server.layers.quant.method import StackingMethod


class BalancedExperts(StackedExperts):
    """Which replica of an expert a token goes to follows from the number of the step and the token's place in it, so that all ranks know it
    and exactly one adds to the sum. Weights and tables change in place: CUDA graphs go on with them."""

    def __init__(
        self,
        shape: ExpertShape,
        num_experts: int,
        placement: Placement,
        method: StackingMethod,
        group: TensorParallelGroup,
        device: torch.device,
    ) -> None:
        """``placement``: the first one, in which the weights are loaded."""
        super().__init__(shape, HeldExperts.some(num_experts, placement[group.rank]), method)
        self.placement = placement
        self.counts: Tensor | None = None  # [E] int32, to which the tokens of each expert are added; None: nobody wants to know
        self.num_step = torch.zeros((), dtype=torch.int64, device=device)  # whoever counts the steps puts its own here
        self._group = group
        self._num_experts = num_experts
        self._num_slots = len(placement[group.rank])
        self._slot_of = torch.empty(num_experts, group.size, dtype=torch.int32, device=device)  # here, by replica; else _num_slots
        self._num_replicas = torch.empty(num_experts, dtype=torch.int64, device=device)
        self._one = torch.ones(1, dtype=torch.int32, device=device)
        self._lay_out(placement)

    @property
    def num_experts(self) -> int:
        """Of the layer."""
        return self._num_experts

    @property
    def most_moved_bytes(self) -> int:
        """Beside the weights, while they move: what comes, no more than all slots, and what goes, a replica of each and all new ones."""
        num_redundant = sum(map(len, self.placement)) - self._num_experts
        return max((2 * self._num_slots + num_redundant) * tensor[0].nbytes for tensor in self._stacked())

    @torch.inference_mode()
    def move_to(self, after: Placement) -> list[Move]:
        """Exchanges weights until the layer is placed so; returns what had to move. All ranks call it with the same placement, between
        steps. An all-to-all for each of the layer's tensors: no more than one of them is held twice."""
        moves, rank = moves_between(self.placement, after), self._group.rank
        outgoing = sorted((move for move in moves if move.source == rank), key=lambda move: move.target)
        incoming = sorted((move for move in moves if move.target == rank), key=lambda move: move.source)
        num_sent = [sum(move.target == other for move in outgoing) for other in range(self._group.size)]
        num_received = [sum(move.source == other for move in incoming) for other in range(self._group.size)]
        for tensor in self._stacked() if moves else ():
            rows = tensor[[move.source_slot for move in outgoing]].flatten(1)
            received = self._group.exchange_rows(rows, num_sent, num_received)
            tensor[[move.target_slot for move in incoming]] = received.view(-1, *tensor.shape[1:])
        self._lay_out(after)
        return moves

    def _own(self, experts: Tensor) -> Tensor:
        routes = experts.long()
        if self.counts is not None:
            self.counts.scatter_add_(0, routes.flatten(), self._one.expand(routes.numel()))
        turns = torch.arange(len(routes), device=routes.device)[:, None] + self.num_step
        return self._slot_of[routes, turns % self._num_replicas[routes]]

    def _lay_out(self, placement: Placement) -> None:
        slots: list[list[int]] = [[] for _ in range(self._num_experts)]
        for rank, held in enumerate(placement):
            for slot, expert in enumerate(held):
                slots[expert].append(slot if rank == self._group.rank else self._num_slots)
        table = [row + [self._num_slots] * (self._group.size - len(row)) for row in slots]
        self._slot_of.copy_(torch.tensor(table, dtype=torch.int32))
        self._num_replicas.copy_(torch.tensor([len(row) for row in slots]))
        self.placement = placement

    def _stacked(self) -> Iterator[Tensor]:
        for stack in (self.gate_up, self.down):
            yield from stack.tensors_by_expert()
