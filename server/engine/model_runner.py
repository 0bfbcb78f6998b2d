"""Runs steps on one device: rows to tensors, forward, choose, commit. Orchestrates; every feature lives in a file of its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.engine.batch import BatchPlan, BatchResult, RowError, RowResult, ScheduledRow
from headway.server.engine.choice import TokenChoice
from headway.server.engine.handle import StepHandle
from headway.server.engine.lora import AdapterSlots
from headway.server.engine.newest_tokens import NewestTokens
from headway.server.engine.resident import Resident
from headway.server.engine.rows import LongArray, RowTable, StepInputs
from headway.server.engine.sampler import ChosenTokens
from headway.server.engine.speculative.drafter import Drafter
from headway.server.engine.speculative.verification import Verification
from headway.server.engine.step_forward import StepForward
from headway.server.layers.forward import ForwardBatch
from headway.server.types import SamplingParams, TokenLogprobs

log = logging.getLogger(__name__)

_SCORED_AT_ONCE = 128  # prompt positions whose logits are held together


@dataclass(slots=True, frozen=True)
class _Launched:
    """A step that is under way on the device."""

    inputs: StepInputs
    sampled: list[int]  # places of the inputs
    chosen: ChosenTokens | Verification | None  # parallel; None: no place is sampled
    results: list[RowResult]  # parallel to the plan; they lack what was chosen


class ModelRunner:
    """Owns the device tensors of requests: rows, and with its choice the sampling state. Not thread-safe."""

    def __init__(
        self,
        resident: Resident,
        forward: StepForward,
        rows: RowTable,
        choice: TokenChoice,
        adapters: AdapterSlots | None = None,
        drafter: Drafter | None = None,
        newest: NewestTokens | None = None,
    ) -> None:
        """``adapters`` are those of the model; None: no request has one. ``drafter`` makes the drafts that a plan leaves undrawn.
        ``newest``: for steps whose tokens are awaited; None: there are none."""
        self._resident = resident
        self._forward = forward
        self._rows = rows
        self._choice = choice
        self._adapters = adapters
        self._drafter = drafter
        self._params: dict[str, SamplingParams] = {}
        self._num_prompt_tokens: dict[str, int] = {}
        self._newest = newest
        self._newest_step: StepHandle[BatchResult] = StepHandle.computed(BatchResult([]))

    def submit(self, plan: BatchPlan) -> StepHandle[BatchResult]:
        """Applies the plan to the rows and sets it going. Rows that break the step are found and end alone.

        The model may run ahead: it takes the tokens that the step before chooses from the device. Choosing does not: it knows all tokens
        of its rows, so that every option is as exact as in a step on its own, and waits for the end of the step before, not of this one.
        Raises only when the model can't compute anything any more; with several ranks also when a step breaks, since they are no longer
        in step then.
        """
        self._apply(plan)
        try:
            launched = self._launch(plan.scheduled)
            self._newest_step = StepHandle(partial(self._finish, launched))
            if isinstance(launched.chosen, Verification) and not self._choice.is_alone:
                self._newest_step.result()  # all ranks take part in choosing what depends on drafts, and only rank 0 is asked for it
        except Exception as cause:
            if not self._choice.is_alone:
                raise
            self._newest_step = StepHandle.computed(self._recover(plan.scheduled, cause))
        return self._newest_step

    def _recover(self, scheduled: list[ScheduledRow], cause: Exception) -> BatchResult:
        """From a step that broke before anything of it was committed. Writing the same keys and values again changes nothing."""
        log.exception("A step of %d requests broke; running each alone to find the one at fault", len(scheduled))
        results = [self._run_alone(item) for item in scheduled]
        if all(result.error for result in results):
            self._resident.check_alive(cause)
            if self._drafter is not None:
                self._drafter.check_alive(cause)
        return BatchResult(results)

    def _run_alone(self, item: ScheduledRow) -> RowResult:
        try:
            return self._finish(self._launch([item])).rows[0]
        except Exception as fault:
            return RowResult([], error=RowError(f"the model could not compute this request: {type(fault).__name__}: {fault}"))

    def _apply(self, plan: BatchPlan) -> None:
        for request_id in plan.removed:
            self._choice.remove(self._rows.remove(request_id))
            del self._params[request_id], self._num_prompt_tokens[request_id]
        for new in plan.added:
            row = self._rows.add(new)
            self._choice.add(row, new.sampling, new.token_ids, new.num_prompt_tokens)
            self._params[new.request_id] = new.sampling
            self._num_prompt_tokens[new.request_id] = new.num_prompt_tokens
            if self._adapters is not None:
                self._adapters.set_row(row, new.adapter_id)
        self._rows.extend(plan.scheduled)

    @torch.inference_mode()
    def _launch(self, scheduled: list[ScheduledRow]) -> _Launched:
        if self._drafter is not None:
            scheduled = self._drafter.draw(scheduled)
        self._rows.set_drafts(scheduled)
        inputs = self._rows.inputs(scheduled)
        sampled = self._rows.samples(inputs)
        lora = self._adapters.plan(inputs) if self._adapters is not None else None
        wanted = inputs.last_tokens(sampled)
        token_ids, batch = self._forward.load(inputs, wanted, lora)
        if self._newest is not None:
            self._newest.take(token_ids, inputs)
        rows = inputs.rows[sampled]
        head_plan = self._head_plan(rows)
        batch.wants_head = head_plan is None and len(sampled) == len(token_ids)
        hidden = self._forward.run(token_ids, batch)
        results = [RowResult([]) for _ in scheduled]
        for at, i in enumerate(inputs.order):
            if self._params[scheduled[i].request_id].prompt_logprobs is not None:
                results[i].prompt_logprobs = self._score_prompt(scheduled[i], inputs, at, hidden)
        choose = self._choice.prepare(_wanted(hidden, batch), rows.tolist(), head_plan, batch.head) if len(sampled) else None
        self._newest_step.result()
        chosen: ChosenTokens | Verification | None = None
        if choose is not None and inputs.has_drafts:
            tokens = inputs.token_ids[wanted].tolist()
            chosen = Verification(self._choice, choose, rows.tolist(), inputs.offsets[sampled].tolist(), tokens)
        elif choose is not None:
            chosen = choose()
            if self._newest is not None:
                self._newest.keep(rows, chosen.on_device)
        if self._drafter is not None:
            self._drafter.follow(inputs, hidden)
        self._rows.commit(inputs, sampled)
        return _Launched(inputs, sampled.tolist(), chosen, results)

    def _head_plan(self, rows: LongArray) -> LoraPlan | None:
        return self._adapters.plan_head(rows) if self._adapters is not None else None

    def _finish(self, step: _Launched) -> BatchResult:
        """Waits for the step. Tokens of requests that have left their rows meanwhile are told to nobody but the caller."""
        if step.chosen is None:
            return BatchResult(step.results)
        sampled = step.chosen.finish()
        have_stayed = self._rows.have_stayed(step.inputs)
        places, token_ids = [], []
        for k, place in enumerate(step.sampled):
            if k in sampled.dropped:
                continue
            result = step.results[step.inputs.order[place]]
            result.error = sampled.errors.get(k)
            result.is_complete = k in sampled.complete
            if result.error is None and not result.is_complete:
                result.token_ids.append(sampled.token_ids[k])
                if (scores := sampled.logprobs[k]) is not None:
                    result.logprobs = [*(result.logprobs or []), scores]
                if have_stayed[place]:
                    places.append(place)
                    token_ids.append(sampled.token_ids[k])
        rows = self._rows.fill(step.inputs, places, token_ids)
        if not isinstance(step.chosen, Verification):  # which has appended them, to choose those behind
            self._choice.append(rows, token_ids)
        return BatchResult(step.results)

    def _score_prompt(self, item: ScheduledRow, inputs: StepInputs, at: int, hidden: Tensor) -> list[TokenLogprobs]:
        """The prompt tokens that this row's chunk predicts; a slice at a time, since logits are as wide as the vocabulary."""
        first = inputs.seq_lens[at] - inputs.query_lens[at]
        last_scoring = self._num_prompt_tokens[item.request_id] - 2  # position p scores token p + 1
        count = max(min(inputs.query_lens[at], last_scoring + 1 - first), 0)
        num_top = self._params[item.request_id].prompt_logprobs
        assert num_top is not None
        row = int(inputs.rows[at])
        start = int(inputs.query_start_loc[at])
        entries: list[TokenLogprobs] = []
        for offset in range(0, count, _SCORED_AT_ONCE):
            stop = min(offset + _SCORED_AT_ONCE, count)
            targets = self._rows.tokens(row, first + 1 + offset, first + 1 + stop)
            lora = self._head_plan(np.full(stop - offset, row))
            entries += self._choice.score_prompt(hidden[start + offset : start + stop], targets.tolist(), num_top, lora)
        return entries


def _wanted(hidden: Tensor, batch: ForwardBatch) -> Tensor:
    """The hidden states [L, H] whose logits are wanted, in the order of their tokens: so if there are as many as tokens, it is all."""
    is_all = batch.head is not None or batch.logits_indices.shape[0] == hidden.shape[0]
    return hidden if is_all else hidden[batch.logits_indices]
