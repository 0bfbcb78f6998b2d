"""The border between the scheduler (policy, no tensors) and the model runner (tensors, no policy).

The runner keeps one persistent row a request; a plan says only what changed. Preemption is removal: a request that comes
back is added anew, with the tokens that it had already produced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headway.server.types import SamplingParams, TokenLogprobs

UNDRAWN = -1  # stands for a draft that the runner's draft model is to make


@dataclass(slots=True, frozen=True)
class NewRow:
    """A request that the runner does not know yet. Filled by the scheduler."""

    request_id: str
    token_ids: list[int]  # prompt, then what was generated before a preemption
    num_prompt_tokens: int
    sampling: SamplingParams
    block_ids: list[int]  # every block it holds, those of this step included
    num_computed_tokens: int  # tokens whose KV is there already (prefix cache)
    adapter_id: int | None = None


@dataclass(slots=True, frozen=True)
class ScheduledRow:
    """A request's share of this step. Filled by the scheduler."""

    request_id: str
    num_tokens: int  # tokens to compute now, after those already computed; > 0
    new_block_ids: list[int]  # blocks appended in this step (empty for a row in ``added``: NewRow has them all)
    token_id: int | None = None  # the newest, which is computed now: for stages that did not choose it; None: there are no others
    drafts: list[int] = field(default_factory=list)  # guesses behind the newest token, or UNDRAWN, computed beside it; then num_tokens is 1

    @property
    def num_query_tokens(self) -> int:
        """All that are computed."""
        return self.num_tokens + len(self.drafts)


@dataclass(slots=True, frozen=True)
class BatchPlan:
    """One step. ``removed`` is applied first, then ``added``, then ``scheduled``; every added row is also scheduled."""

    added: list[NewRow] = field(default_factory=list)
    scheduled: list[ScheduledRow] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(row.num_query_tokens for row in self.scheduled)


@dataclass(slots=True, frozen=True)
class RowError:
    """Why a row gets no token, in one sentence. ``is_request_fault``: see TokenDelta."""

    text: str
    is_request_fault: bool = False


@dataclass(slots=True)
class RowResult:
    """What a step gave for one scheduled row. Filled by the runner.

    ``token_ids`` is empty while the prompt is not computed to its end; beside one token it has the drafts that were right before it.
    ``prompt_logprobs`` holds this chunk's entries: one for
    each prompt position from num_computed+1 on whose token is now predicted (the entry of position p scores token p), so
    the chunks put one after the other, behind a leading None for position 0, cover the prompt.
    ``error`` isolates a row that broke: the request ends with it, the step goes on. ``is_complete``: there is no token, since the
    request's grammar allows none to follow; it ends with what it has.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    error: RowError | None = None
    is_complete: bool = False


@dataclass(slots=True)
class BatchResult:
    """Parallel to ``BatchPlan.scheduled``."""

    rows: list[RowResult]
