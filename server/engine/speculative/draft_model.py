"""Drafts by a small model of the same vocabulary (Leviathan et al., 2023), which always takes the token that it finds most likely.

It has pages of its own in the blocks that the large model's requests hold: it computes what that one computes, so that a block which others
find, or a request that starts over, has both models' keys and values. What it wrote for drafts that were wrong is overwritten like theirs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.batch import ScheduledRow
from headway.server.engine.resident import Resident
from headway.server.engine.rows import LongArray, RowTable, StepInputs
from headway.server.engine.step_forward import StepForward
from headway.server.engine.transfers import upload

_NONE = np.zeros(0, dtype=np.int64)


class DraftModel:
    """See Drafter. Reads the runner's rows; owns nothing of a request but its pages."""

    def __init__(self, resident: Resident, forward: StepForward, rows: RowTable, device: torch.device) -> None:
        """``rows`` are those of the large model."""
        self._resident = resident
        self._forward = forward
        self._rows = rows
        self._device = device

    def check_alive(self, cause: Exception) -> None:
        self._resident.check_alive(cause)

    @torch.inference_mode()
    def draw(self, scheduled: list[ScheduledRow]) -> list[ScheduledRow]:
        """Computes the known tokens of the step first."""
        inputs = self._rows.inputs([replace(row, drafts=[]) if row.drafts else row for row in scheduled])
        drafting = [row for row in scheduled if row.drafts]
        if not drafting:
            self._compute(inputs, _NONE)
            return scheduled
        places = [place for place, i in enumerate(inputs.order) if scheduled[i].drafts]  # they are decodes, which keep their order
        drawn = self._draw_rows(inputs, np.array(places, dtype=np.int64), drafting)
        drafts = iter(drawn.T.tolist())
        return [replace(row, drafts=next(drafts)[: len(row.drafts)]) if row.drafts else row for row in scheduled]

    def follow(self, inputs: StepInputs, hidden: Tensor) -> None:
        """It computes all tokens itself."""

    def _draw_rows(self, inputs: StepInputs, places: LongArray, drafting: list[ScheduledRow]) -> Tensor:
        """[k, R]: a row's drafts one below the other; behind its last one anything."""
        num_drafts = np.array([len(row.drafts) for row in drafting])
        ahead = self._rows.inputs(drafting)
        newest = self._compute(inputs, places)
        drawn = torch.zeros((int(num_drafts.max()), len(drafting)), dtype=torch.int64, device=self._device)
        drawn[0] = newest
        for offset in range(1, len(drawn) + 1):
            # The last draft of a row is computed for its keys and values alone: they are needed if it turns out right.
            going_on = np.flatnonzero(num_drafts >= offset)
            further = np.flatnonzero(num_drafts[going_on] > offset)
            token_ids = drawn[offset - 1, self._upload(going_on)]
            newest = self._compute(ahead.at_offset(offset), further, token_ids)
            if len(further):
                drawn[offset, self._upload(going_on[further])] = newest
        return drawn

    def _compute(self, inputs: StepInputs, wanted: LongArray, token_ids: Tensor | None = None) -> Tensor:
        """The likeliest tokens [L] behind the places ``wanted`` [L]. ``token_ids``: of all places, instead of those in ``inputs``."""
        on_device, batch = self._forward.load(inputs, wanted, None)
        if token_ids is not None:
            on_device[: len(token_ids)].copy_(token_ids)
        hidden = self._forward.run(on_device, batch)
        if not len(wanted):
            return on_device[:0]
        return self._resident.model.logits(hidden[batch.logits_indices]).argmax(dim=-1)

    def _upload(self, indices: LongArray) -> Tensor:
        return upload(torch.from_numpy(indices), self._device)
