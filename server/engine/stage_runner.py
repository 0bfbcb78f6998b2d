"""Runs steps on a stage of the layers that is not the last: rows to tensors, forward, on to the next stage. Nothing is chosen here."""

from __future__ import annotations

import numpy as np
import torch

from headway.server.engine.batch import BatchPlan, BatchResult
from headway.server.engine.handle import StepHandle
from headway.server.engine.lora import AdapterSlots
from headway.server.engine.rows import RowTable
from headway.server.engine.step_forward import StepForward

_NONE_WANTED = np.zeros(0, dtype=np.int64)


class StageRunner:
    """See Runner. Keeps the rows that ModelRunner keeps on the last stage. What that one chose comes with the plan that computes it."""

    def __init__(self, forward: StepForward, rows: RowTable, adapters: AdapterSlots | None) -> None:
        self._forward = forward
        self._rows = rows
        self._adapters = adapters

    @torch.inference_mode()
    def submit(self, plan: BatchPlan) -> StepHandle[BatchResult]:
        """The result is empty: it is the last stage's. Raises whatever breaks the step, since the stages are not in step any more then."""
        for request_id in plan.removed:
            self._rows.remove(request_id)
        for new in plan.added:
            row = self._rows.add(new)
            if self._adapters is not None:
                self._adapters.set_row(row, new.adapter_id)
        self._rows.extend(plan.scheduled)
        inputs = self._rows.inputs(plan.scheduled)
        lora = self._adapters.plan(inputs) if self._adapters is not None else None
        self._forward.run(*self._forward.load(inputs, _NONE_WANTED, lora))
        self._rows.commit(inputs, self._rows.samples(inputs))
        return StepHandle.computed(BatchResult([]))
