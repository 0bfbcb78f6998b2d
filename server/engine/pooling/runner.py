"""Runs steps over texts: hidden states of all of them at once, then what each asked for."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from headway.server.engine.handle import StepHandle
from headway.server.engine.pooling.batch import PoolingPlan, PoolingResult, PoolingRow
from headway.server.engine.pooling.inputs import Piece, forward_batch
from headway.server.engine.pooling.pooler import NotFinite, Pooler
from headway.server.engine.resident import Resident
from headway.server.types import PoolRequest

log = logging.getLogger(__name__)


class PoolingRunner:
    """Lays the texts of a step over the pages, if the model needs any. Not thread-safe."""

    def __init__(
        self,
        resident: Resident,
        pooler: Pooler,
        *,
        block_size: int,
        max_piece: int,
        device: torch.device,
    ) -> None:
        """``max_piece``: most tokens of one text in a forward pass."""
        self._resident = resident
        self._pooler = pooler
        self._block_size = block_size
        self._max_piece = max_piece
        self._device = device

    def submit(self, plan: PoolingPlan) -> StepHandle[PoolingResult]:
        """Computes the plan, all of it. Texts that break the step are found and end alone.

        Raises only when the model can't compute anything any more.
        """
        try:
            return StepHandle.computed(PoolingResult(self._run(plan.requests)))
        except Exception as cause:
            if len(plan.requests) > 1 or not isinstance(cause, NotFinite):
                log.exception("A step of %d texts broke; running each alone to find the one at fault", len(plan.requests))
            rows = [self._run_alone(request) for request in plan.requests]
            if all(row.error for row in rows):
                self._resident.check_alive(cause)
            return StepHandle.computed(PoolingResult(rows))

    def _run_alone(self, request: PoolRequest) -> PoolingRow:
        try:
            return self._run([request])[0]
        except Exception as fault:
            return PoolingRow(None, f"the model could not compute this text: {type(fault).__name__}: {fault}")

    @torch.inference_mode()
    def _run(self, requests: list[PoolRequest]) -> list[PoolingRow]:
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_token_ids))  # neighbours of like length
        texts = [requests[i] for i in order]
        lengths = [len(request.prompt_token_ids) for request in texts]
        pooled = self._pooler(self._resident.model, self._hidden(texts), lengths, [request.pooling for request in texts])
        rows = [PoolingRow(None)] * len(requests)
        for i, result in zip(order, pooled, strict=True):
            rows[i] = PoolingRow(result)
        return rows

    def _hidden(self, texts: list[PoolRequest]) -> Tensor:
        """[T, H] of all tokens."""
        pieces = [Piece(request.prompt_token_ids, 0, request.num_first_segment) for request in texts]
        if len(pieces) > 1 or pieces[0].end <= self._max_piece:
            return self._forward(pieces)
        (whole,) = pieces  # its memory is bounded as that of any step, and its pages hold what was computed before
        starts = range(0, whole.end, self._max_piece)
        return torch.cat([self._forward([Piece(whole.token_ids[at : at + self._max_piece], at)]) for at in starts])

    def _forward(self, pieces: list[Piece]) -> Tensor:
        token_ids, batch = forward_batch(pieces, self._block_size, self._device)
        return self._resident.model.forward(token_ids, self._resident.kv, batch)
