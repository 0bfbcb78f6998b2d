"""Drafts by an EAGLE head (Li et al., arXiv:2401.15077 and 2503.01840), as a chain: each is the likeliest behind the one before.

The head reads a token beside the large model's hidden state before it: that of place t beside the token at t + 1, whose keys and values lie
at place t of pages of its own, in the blocks that the request holds. It reads a prompt behind the large model, chunk by chunk; a chunk's
last hidden state, and those of a token and of the drafts behind it that were right, before the next step, when it is known what follows.
Of drafts themselves it reads its own output in the place of hidden states; what it writes there is overwritten with what was said.

The last place of a block has a token of the next block in it. Two requests that share the block but not that token write there in turn;
so one of them may guess from the other's, which only makes its guess worse.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.batch import ScheduledRow
from headway.server.engine.resident import Resident
from headway.server.engine.rows import LongArray, RowTable, StepInputs
from headway.server.engine.speculative.features import PendingFeatures
from headway.server.engine.step_forward import StepForward
from headway.server.engine.transfers import upload
from headway.server.models.eagle import EagleHead

_NONE = np.zeros(0, dtype=np.int64)


class EagleDrafter:
    """See Drafter. Reads the runner's rows; owns nothing of a request but its pages and what is pending."""

    def __init__(
        self, resident: Resident, head: EagleHead, forward: StepForward, rows: RowTable, pending: PendingFeatures, device: torch.device
    ) -> None:
        """``rows`` are those of the large model; ``head`` is what is resident."""
        self._resident = resident
        self._head = head
        self._forward = forward
        self._rows = rows
        self._pending = pending
        self._device = device

    def check_alive(self, cause: Exception) -> None:
        self._resident.check_alive(cause)

    @torch.inference_mode()
    def draw(self, scheduled: list[ScheduledRow]) -> list[ScheduledRow]:
        rows = self._rows.rows_of(scheduled)
        starts, counts = self._pending.pending(rows)
        if not counts.any():
            return scheduled  # these are beginnings of prompts
        hidden = self._read_pending(rows, starts, counts)
        drafting = np.flatnonzero([bool(row.drafts) for row in scheduled])
        if not len(drafting):
            return scheduled
        last = hidden[self._upload(np.cumsum(counts)[drafting] - 1)]
        num_drafts = np.array([len(scheduled[i].drafts) for i in drafting], dtype=np.int64)
        drawn = self._chain(last, rows[drafting], (starts + counts)[drafting], num_drafts)
        drafts = iter(drawn.T.tolist())
        return [replace(row, drafts=next(drafts)[: len(row.drafts)]) if row.drafts else row for row in scheduled]

    def _read_pending(self, rows: LongArray, starts: LongArray, counts: LongArray) -> Tensor:
        """[sum of counts, H]: what the head says of each, row by row. Each is a place of its own, as in a step of decodes."""
        of_rows = np.repeat(rows, counts)
        offsets = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        inputs = self._rows.spans(of_rows, np.repeat(starts, counts) + offsets, np.ones_like(of_rows), ahead=1)
        return self._compute(inputs, self._pending.read(of_rows, offsets))

    def _chain(self, hidden: Tensor, rows: LongArray, places: LongArray, num_drafts: LongArray) -> Tensor:
        """[k, R]: the rows' drafts one below the other; behind a row's last one anything. hidden [R, H] is what the head said last, and
        ``places`` are those behind."""
        drawn = torch.zeros((int(num_drafts.max()), len(rows)), dtype=torch.int64, device=self._device)
        drawn[0] = self._head.likeliest(hidden)
        going_on = np.arange(len(rows))
        for k in range(1, len(drawn)):
            stays = np.flatnonzero(num_drafts[going_on] > k)
            hidden, going_on = hidden[self._upload(stays)], going_on[stays]
            at = self._upload(going_on)
            inputs = self._rows.spans(rows[going_on], places[going_on] + k - 1, np.ones_like(going_on))
            hidden = self._compute(inputs, hidden, drawn[k - 1, at])
            drawn[k, at] = self._head.likeliest(hidden)
        return drawn

    def follow(self, inputs: StepInputs, hidden: Tensor) -> None:
        """All that is known to be followed by what is read at once; the rest is kept."""
        features = self._head.features_of(hidden[: len(inputs.token_ids)])
        lens = np.array(inputs.query_lens, dtype=np.int64) - 1
        chunks = np.flatnonzero(lens)
        if len(chunks):
            chunks = chunks[np.argsort(lens[chunks] > 1, kind="stable")]
            first = inputs.query_start_loc[chunks].astype(np.int64)
            spans = self._rows.spans(inputs.rows[chunks], inputs.positions[first], lens[chunks], ahead=1)
            tokens = spans.positions + np.repeat(first - inputs.positions[first], lens[chunks])
            self._compute(spans, features[self._upload(tokens)])
        self._pending.keep(inputs, features)

    def _compute(self, inputs: StepInputs, features: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """[T, H]. ``token_ids``: of all places, instead of those in ``inputs``."""
        on_device, batch = self._forward.load(inputs, _NONE, None)
        if token_ids is not None:
            on_device[: len(token_ids)].copy_(token_ids)
        self._head.features[: len(features)].copy_(features)
        return self._forward.run(on_device, batch)[: len(features)]

    def _upload(self, indices: LongArray) -> Tensor:
        return upload(torch.from_numpy(indices), self._device)
