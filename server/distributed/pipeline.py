"""What passes hidden states from one stage of a model's layers to the next. Passed in, never global."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from headway.server.distributed.groups import exchange
from headway.server.distributed.places import WHOLE, PipelineStage

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class PipelineGroup:
    """This process's place among the stages of one model. Of one stage: communicates with nobody.

    ``process_group`` is a torch process group (gloo, NCCL) over the ranks that pass hidden states on to each other, a rank a stage in the
    stages' order. Each ``send`` has its ``receive`` in the next stage, in the same order; both raise PeerLost.
    """

    stage: PipelineStage = WHOLE
    process_group: ProcessGroup | None = None
    _sent: deque[tuple[Any, Tensor]] = field(default_factory=deque)  # what may not have arrived yet

    def send(self, tensor: Tensor) -> None:
        """Hands the contiguous ``tensor``, which nobody may change any more, to the next stage. Does not wait for it: there may be as many
        steps under way as stages, and whoever begins another has seen the oldest end, so that what it sent has arrived."""
        group = self.process_group
        assert group is not None, "the only stage has no next one"
        if len(self._sent) == self.stage.size:
            work, _ = self._sent.popleft()
            exchange(work.wait)
        self._sent.append((exchange(lambda: group.send([tensor], self.stage.index + 1, 0)), tensor))

    def receive(self, into: Tensor) -> Tensor:
        """Fills the contiguous ``into`` with what the stage before sends, and returns it. On a GPU this does not wait for the device."""
        group = self.process_group
        assert group is not None, "the only stage has none before it"
        exchange(lambda: group.recv([into], self.stage.index - 1, 0).wait())
        return into


ONE_STAGE = PipelineGroup()
