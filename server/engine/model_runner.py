"""Runs one step on one device: rows to tensors, forward, sample, commit. Orchestrates; every feature lives in a file of its own."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.batch import BatchPlan, BatchResult, RowError, RowResult, ScheduledRow
from headway.server.engine.logprobs import prompt_logprobs
from headway.server.engine.lora import AdapterSlots
from headway.server.engine.resident import Resident
from headway.server.engine.rows import RowTable, StepInputs
from headway.server.engine.sampler import SamplingState
from headway.server.layers.forward import ForwardBatch
from headway.server.types import SamplingParams, TokenLogprobs

log = logging.getLogger(__name__)

_SCORED_AT_ONCE = 128  # prompt positions whose logits are held together


class ModelRunner:
    """Owns the device tensors of requests: rows and sampling state. Not thread-safe."""

    def __init__(
        self,
        resident: Resident,
        rows: RowTable,
        sampling: SamplingState,
        device: torch.device,
        adapters: AdapterSlots | None = None,
    ) -> None:
        """``adapters`` are those of the model; None: no request has one."""
        self._resident = resident
        self._rows = rows
        self._sampling = sampling
        self._device = device
        self._adapters = adapters
        self._params: dict[str, SamplingParams] = {}
        self._num_prompt_tokens: dict[str, int] = {}

    def execute(self, plan: BatchPlan) -> BatchResult:
        """Applies the plan to the rows and computes it. Rows that break the step are found and end alone.

        Raises only when the model can't compute anything any more.
        """
        self._apply(plan)
        try:
            return BatchResult(self._run(plan.scheduled))
        except Exception as cause:
            log.exception("A step of %d requests broke; running each alone to find the one at fault", len(plan.scheduled))
            results = [result for item in plan.scheduled for result in self._run_alone(item)]
            if all(result.error for result in results):
                self._resident.check_alive(cause)
            return BatchResult(results)

    def _run_alone(self, item: ScheduledRow) -> list[RowResult]:
        """Nothing was committed by the step that broke, and writing the same keys and values again changes nothing."""
        try:
            return self._run([item])
        except Exception as fault:
            return [RowResult([], error=RowError(f"the model could not compute this request: {type(fault).__name__}: {fault}"))]

    def _apply(self, plan: BatchPlan) -> None:
        for request_id in plan.removed:
            self._sampling.remove(self._rows.remove(request_id))
            del self._params[request_id], self._num_prompt_tokens[request_id]
        for new in plan.added:
            row = self._rows.add(new)
            self._sampling.add(row, new.sampling, new.token_ids, new.num_prompt_tokens)
            self._params[new.request_id] = new.sampling
            self._num_prompt_tokens[new.request_id] = new.num_prompt_tokens
            if self._adapters is not None:
                self._adapters.set_row(row, new.adapter_id)
        self._rows.extend(plan.scheduled)

    @torch.inference_mode()
    def _run(self, scheduled: list[ScheduledRow]) -> list[RowResult]:
        inputs = self._rows.inputs(scheduled)
        samples = self._rows.samples(inputs)
        last_tokens = [int(inputs.query_start_loc[at + 1]) - 1 for at, does in enumerate(samples) if does]
        batch = self._to_device(inputs, last_tokens)
        hidden = self._resident.model.forward(self._tensor(inputs.token_ids), self._resident.kv, batch)
        results = [RowResult([]) for _ in scheduled]
        for at, i in enumerate(inputs.order):
            if self._params[scheduled[i].request_id].prompt_logprobs is not None:
                results[i].prompt_logprobs = self._score_prompt(scheduled[i], inputs, at, hidden)
        if last_tokens:
            self._sample(inputs, samples, self._resident.model.logits(hidden[batch.logits_indices]), results)
        else:
            self._rows.commit(inputs, {})
        return results

    def _score_prompt(self, item: ScheduledRow, inputs: StepInputs, at: int, hidden: Tensor) -> list[TokenLogprobs]:
        """The prompt tokens that this row's chunk predicts; a slice at a time, since logits are as wide as the vocabulary."""
        first = inputs.seq_lens[at] - inputs.query_lens[at]
        last_scoring = self._num_prompt_tokens[item.request_id] - 2  # position p scores token p + 1
        count = max(min(inputs.query_lens[at], last_scoring + 1 - first), 0)
        num_top = self._params[item.request_id].prompt_logprobs
        assert num_top is not None
        start = int(inputs.query_start_loc[at])
        entries: list[TokenLogprobs] = []
        for offset in range(0, count, _SCORED_AT_ONCE):
            stop = min(offset + _SCORED_AT_ONCE, count)
            targets = self._rows.tokens(int(inputs.rows[at]), first + 1 + offset, first + 1 + stop)
            entries += prompt_logprobs(self._resident.model.logits(hidden[start + offset : start + stop]), targets.tolist(), num_top)
        return entries

    def _sample(self, inputs: StepInputs, samples: list[bool], logits: Tensor, results: list[RowResult]) -> None:
        sampling = [at for at, does in enumerate(samples) if does]
        rows = inputs.rows[sampling].tolist()
        sampled = self._sampling.sample(logits, rows)
        committed: dict[int, int] = {}
        for k, at in enumerate(sampling):
            result = results[inputs.order[at]]
            result.error = sampled.errors.get(k)
            result.is_complete = k in sampled.complete
            if result.error is None and not result.is_complete:
                result.token_ids = [sampled.token_ids[k]]
                scores = sampled.logprobs[k]
                result.logprobs = None if scores is None else [scores]
                committed[rows[k]] = sampled.token_ids[k]
        self._rows.commit(inputs, committed)
        self._sampling.append(list(committed), list(committed.values()))

    def _to_device(self, inputs: StepInputs, wanted: list[int]) -> ForwardBatch:
        return ForwardBatch(
            positions=self._tensor(inputs.positions),
            slot_mapping=self._tensor(inputs.slot_mapping),
            query_start_loc=self._tensor(inputs.query_start_loc),
            seq_lens=self._tensor(np.array(inputs.seq_lens, dtype=np.int32)),
            block_tables=self._tensor(inputs.block_tables),
            num_decodes=inputs.num_decodes,
            max_query_len=max(inputs.query_lens),
            max_seq_len=max(inputs.seq_lens),
            logits_indices=self._tensor(np.array(wanted, dtype=np.int64)),
            query_lens=inputs.query_lens,
            seq_lens_host=inputs.seq_lens,
            lora=self._adapters.plan(inputs.rows, inputs.query_lens) if self._adapters is not None else None,
        )

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
