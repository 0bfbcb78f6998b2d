"""Runs one step on one device: rows to tensors, forward, sample, commit. Orchestrates; every feature lives in a file of its own."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.batch import BatchPlan, BatchResult, RowResult, ScheduledRow
from headway.server.engine.logprobs import prompt_logprobs
from headway.server.engine.rows import RowTable, StepInputs
from headway.server.engine.sampler import SamplingState
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.models.base import Model
from headway.server.types import SamplingParams, TokenLogprobs

log = logging.getLogger(__name__)


class ModelRunner:
    """Owns the device tensors of requests: rows, KV pages and sampling state. Not thread-safe."""

    def __init__(self, model: Model, kv: list[LayerKV], rows: RowTable, sampling: SamplingState, device: torch.device) -> None:
        self._model = model
        self._kv = kv
        self._rows = rows
        self._sampling = sampling
        self._device = device
        self._params: dict[str, SamplingParams] = {}
        self._num_prompt_tokens: dict[str, int] = {}

    def execute(self, plan: BatchPlan) -> BatchResult:
        """Applies the plan to the rows and computes it. A row that breaks the step is found and ends alone."""
        self._apply(plan)
        try:
            return BatchResult(self._run(plan.scheduled))
        except Exception as cause:
            if len(plan.scheduled) == 1:
                raise
            log.exception("A step of %d requests broke; running each alone to find the one at fault", len(plan.scheduled))
            return self._isolate(plan.scheduled, cause)

    def _isolate(self, scheduled: list[ScheduledRow], cause: Exception) -> BatchResult:
        """Nothing was committed, and writing the same keys and values again changes nothing: so each row can run again."""
        results: list[RowResult] = []
        for item in scheduled:
            try:
                results += self._run([item])
            except Exception as fault:
                results.append(RowResult([], error=f"the model could not compute this request: {type(fault).__name__}: {fault}"))
        if all(result.error for result in results):
            raise cause
        return BatchResult(results)

    def _apply(self, plan: BatchPlan) -> None:
        for request_id in plan.removed:
            self._sampling.remove(self._rows.remove(request_id))
            del self._params[request_id], self._num_prompt_tokens[request_id]
        for new in plan.added:
            row = self._rows.add(new)
            self._sampling.add(row, new.sampling, new.token_ids, new.num_prompt_tokens)
            self._params[new.request_id] = new.sampling
            self._num_prompt_tokens[new.request_id] = new.num_prompt_tokens
        self._rows.extend(plan.scheduled)

    @torch.inference_mode()
    def _run(self, scheduled: list[ScheduledRow]) -> list[RowResult]:
        inputs = self._rows.inputs(scheduled)
        samples = self._rows.samples(inputs)
        scored = [self._scored_positions(scheduled[i], inputs, at) for at, i in enumerate(inputs.order)]
        wanted, offsets = _logits_wanted(inputs, samples, scored)
        batch = self._to_device(inputs, wanted)
        hidden = self._model.forward(self._tensor(inputs.token_ids), self._kv, batch)
        results = [RowResult([]) for _ in scheduled]
        if len(wanted):
            logits = self._model.logits(hidden[batch.logits_indices])
            self._score_prompts(inputs, scheduled, scored, offsets, logits, results)
            self._sample(inputs, samples, logits, results, sample_rows=_last_of_each(samples, scored, offsets))
        else:
            self._rows.commit(inputs, {})
        return results

    def _scored_positions(self, item: ScheduledRow, inputs: StepInputs, at: int) -> range:
        """Query offsets in this row's chunk whose logits score the next prompt token (prompt logprobs)."""
        if self._params[item.request_id].prompt_logprobs is None:
            return range(0)
        first = inputs.seq_lens[at] - inputs.query_lens[at]
        last_scoring = self._num_prompt_tokens[item.request_id] - 2  # position p scores token p + 1
        return range(max(min(inputs.query_lens[at], last_scoring + 1 - first), 0))

    def _score_prompts(
        self,
        inputs: StepInputs,
        scheduled: list[ScheduledRow],
        scored: list[range],
        offsets: list[int],
        logits: Tensor,
        results: list[RowResult],
    ) -> None:
        for at, positions in enumerate(scored):
            item = scheduled[inputs.order[at]]
            count = self._params[item.request_id].prompt_logprobs
            if count is None:
                continue
            first = inputs.seq_lens[at] - inputs.query_lens[at]
            targets = self._rows.tokens(int(inputs.rows[at]), first + 1, first + 1 + len(positions))
            entries: list[TokenLogprobs] = []
            if len(positions):
                entries = prompt_logprobs(logits[offsets[at] : offsets[at] + len(positions)], targets.tolist(), count)
            results[inputs.order[at]].prompt_logprobs = entries

    def _sample(self, inputs: StepInputs, samples: list[bool], logits: Tensor, results: list[RowResult], sample_rows: list[int]) -> None:
        sampling = [at for at, does in enumerate(samples) if does]
        if len(sample_rows) != logits.shape[0]:
            logits = logits[self._tensor(np.array(sample_rows, dtype=np.int64))]
        rows = inputs.rows[sampling].tolist()
        sampled = self._sampling.sample(logits, rows) if rows else None
        committed: dict[int, int] = {}
        if sampled is not None:
            for k, at in enumerate(sampling):
                result = results[inputs.order[at]]
                result.error = sampled.errors.get(k)
                if result.error is None:
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
        )

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _logits_wanted(inputs: StepInputs, samples: list[bool], scored: list[range]) -> tuple[list[int], list[int]]:
    """Query tokens whose logits are computed, row after row (prompt scores, then the last token), and each row's first."""
    wanted: list[int] = []
    offsets: list[int] = []
    for at, positions in enumerate(scored):
        start = int(inputs.query_start_loc[at])
        offsets.append(len(wanted))
        wanted += [start + p for p in positions]
        if samples[at]:
            wanted.append(start + inputs.query_lens[at] - 1)
    return wanted, offsets


def _last_of_each(samples: list[bool], scored: list[range], offsets: list[int]) -> list[int]:
    """Rows of the logits that are sampled from."""
    return [offsets[at] + len(scored[at]) for at, does in enumerate(samples) if does]
