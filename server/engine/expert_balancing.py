"""Expert load balancing: counts the tokens that experts get, and moves experts between ranks so that the busiest rank has less to do.

Every ``step_interval`` steps the layers are placed anew by the load of the last ``window_size`` steps, one layer in each of the steps
that follow: requests wait for one layer's weights at a time. All ranks of a stage see all tokens, count the same steps and take rank 0's
counts, so they move in step without being told to.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.server.config.expert_balancing import BalancingSettings
from headway.server.distributed.expert_placement import balanced_placement, rank_loads
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.balanced_experts import BalancedExperts
from headway.server.models.base import Model
from headway.server.stats import BalancingStats

log = logging.getLogger(__name__)


class ExpertBalancer:
    """Of this rank's layers. ``attach`` to a model whose weights are there; then ``begin_step`` before each of its steps. Not thread-safe.

    What was counted before the first ``begin_step``, as in a warm-up, is forgotten. Rows that fill up a CUDA graph count as others do:
    their experts compute them.
    """

    def __init__(self, settings: BalancingSettings, group: TensorParallelGroup, device: torch.device) -> None:
        self._settings = settings
        self._group = group
        self._device = device
        self._layers: list[BalancedExperts] = []
        self._stats = BalancingStats()
        self._counts: Tensor  # [layers, E] int32, of the step under way
        self._window: Tensor  # [window_size, layers, E] int32, of the steps before; the oldest is overwritten
        self._num_steps = -1  # counted; before the first one -1
        self._num_step = torch.zeros((), dtype=torch.int64, device=device)  # the same, for the layers
        self._loads: list[list[int]] = []  # of each layer's experts, which the next placements are made for
        self._waiting: deque[int] = deque()  # layers that are yet to be placed for them

    @property
    def stats(self) -> BalancingStats:
        return self._stats

    @property
    def most_moved_bytes(self) -> int:
        """Beside the weights, between two steps."""
        return max((layer.most_moved_bytes for layer in self._layers), default=0)

    def attach(self, model: Model) -> None:
        """Also to the first model's successor, the same one loaded anew: its experts stand where they stood at the start."""
        self._layers = [layer for _, layer in model.named_layers() if isinstance(layer, BalancedExperts)]
        num_experts = self._layers[0].num_experts if self._layers else 0  # a stage may have plain layers only
        shape = (len(self._layers), num_experts)
        self._counts = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._window = torch.zeros((self._settings.window_size, *shape), dtype=torch.int32, device=self._device)
        for layer, counts in zip(self._layers, self._counts, strict=True):
            layer.counts, layer.num_step = counts, self._num_step
        self._num_steps = -1
        self._waiting.clear()

    def detach(self) -> None:
        """Gives the model up, and the memory of its counts, until another ``attach``."""
        self._layers, self._waiting = [], deque()
        self._counts = self._window = torch.empty(0)

    @torch.inference_mode()
    def begin_step(self) -> None:
        """Takes in what the step before counted, and moves a layer's experts if it is time for that. All ranks of the stage have begun the
        same steps before. Raises PeerLost."""
        if self._num_steps >= 0:
            self._window[self._num_steps % len(self._window)].copy_(self._counts)
        self._num_steps += 1
        self._num_step.fill_(self._num_steps)
        self._counts.zero_()
        if not self._num_steps or not self._layers:
            return
        if self._settings.logged_steps and self._num_steps % self._settings.logged_steps == 0 and self._group.rank == 0:
            self._tell()
        if self._num_steps % self._settings.step_interval == 0:
            self._loads = self._group.broadcast(self._window.sum(dim=0)).tolist()  # the device is waited for
            self._waiting.extend(at for at in range(len(self._layers)) if at not in self._waiting)
            balance = _balance(self._loads, self._layers)
            self._stats = BalancingStats(balance, *self._moved)
        if self._waiting:
            self._place(self._waiting.popleft())

    @property
    def _moved(self) -> tuple[int, int]:
        return self._stats.num_placed_layers, self._stats.num_moved_experts

    def _place(self, at: int) -> None:
        layer, (num_layers, num_experts) = self._layers[at], self._moved
        after = balanced_placement(self._loads[at], layer.placement)
        if after != layer.placement:
            num_moved = len(layer.move_to(after))
            balance = _balance(self._loads, self._layers)
            self._stats = BalancingStats(balance, num_layers + 1, num_experts + num_moved)

    def _tell(self) -> None:
        num_steps = min(self._num_steps, len(self._window))
        balance = _balance(self._window.sum(dim=0).tolist(), self._layers)
        text = "Experts in the last %d steps: ranks had %.2f of the busiest one's tokens on average; %d experts moved since the start"
        log.info(text, num_steps, balance, self._stats.num_moved_experts)


def _balance(loads: Sequence[Sequence[int]], layers: Sequence[BalancedExperts]) -> float:
    """What the ranks have to do on average over what the busiest one has, of all layers one after the other, placed as they are: from 1 for
    the same down to 1 / ranks for all on one."""
    by_layer = [rank_loads(own, layer.placement) for own, layer in zip(loads, layers, strict=True)]
    busiest = sum(max(each) for each in by_layer)
    return sum(sum(each) / len(each) for each in by_layer) / busiest if busiest else 1.0
