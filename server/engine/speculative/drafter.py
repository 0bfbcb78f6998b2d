"""What makes drafts beside the large model, as the runner and the rank see it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from headway.server.engine.batch import ScheduledRow
from headway.server.engine.rows import RowTable, StepInputs
from headway.server.engine.worker import Worker
from headway.server.stats import DraftModelInfo


class Drafter(Protocol):
    """The runner's side. Callers hold torch.inference_mode()."""

    def check_alive(self, cause: Exception) -> None:
        """As Resident.check_alive."""
        ...

    def draw(self, scheduled: list[ScheduledRow]) -> list[ScheduledRow]:
        """Before the large model computes a step: the same with as many drafts as its rows have undrawn ones. May be called again for rows
        of a step that broke. Waits for the device if there are any."""
        ...

    def follow(self, inputs: StepInputs, hidden: Tensor) -> None:
        """The large model has computed a step of these inputs; hidden [T, H] are its hidden states, those of a graph's padding behind."""
        ...


class DrafterRank(Protocol):
    """The rank's side: the constructor loads the weights; then as ModelRank."""

    worker: Worker

    @property
    def bytes_per_block(self) -> int:
        """All that it keeps for a block."""
        ...

    def measure_activations(self) -> int:
        """As Worker.measure_activations, of steps that want the likeliest token alone."""
        ...

    def start(self, num_blocks: int, rows: RowTable) -> Drafter:
        """``num_blocks`` and ``rows`` are those of the large model."""
        ...

    def info(self, num_blocks: int) -> DraftModelInfo: ...
