"""Where the hidden states of a step come in from the stage before, and go out to the next one."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.server.distributed.pipeline import PipelineGroup


class StagePort:
    """Of one stage of a model's layers. The only stage takes token ids in, and nothing out."""

    def __init__(self, group: PipelineGroup, max_tokens: int, hidden_size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._group = group
        # At one place for all steps, where CUDA graphs find it. Overwritten by the next step, and by the layers themselves.
        self._incoming = None if group.stage.is_first else torch.zeros(max_tokens, hidden_size, dtype=dtype, device=device)

    @property
    def is_last(self) -> bool:
        return self._group.stage.is_last

    def inputs(self, token_ids: Tensor) -> Tensor:
        """What the layers start from in a step of these tokens: the ids themselves, or the place of so many hidden states."""
        if self._incoming is None:
            return token_ids
        assert len(token_ids) <= len(self._incoming), f"{len(token_ids)} tokens are more than a step has"
        return self._incoming[: len(token_ids)]

    def receive(self, token_ids: Tensor) -> Tensor:
        """The same, once the stage before has computed them."""
        inputs = self.inputs(token_ids)
        return inputs if self._incoming is None else self._group.receive(inputs)

    def pass_on(self, hidden: Tensor) -> None:
        """Of every step, as the layers give it: to the next stage if there is one."""
        if not self.is_last:
            # A graph writes its next step over the same memory, while this one may not have been sent yet.
            self._group.send(hidden.clone() if hidden.is_cuda else hidden)
