"""A plan in the making, and what the scheduler keeps of one that is out."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from headway.server.engine.batch import NewRow, ScheduledRow
from headway.server.engine.request import Request, RequestState


@dataclass(slots=True)
class Step:
    """A plan in the making."""

    budget: int  # tokens left
    now: float
    carries_tokens: bool = False  # to ranks that do not choose them
    added: list[NewRow] = field(default_factory=list)
    scheduled: list[ScheduledRow] = field(default_factory=list)
    requests: list[InFlight] = field(default_factory=list)  # parallel to ``scheduled``
    has_preempted: bool = False

    def take(self, request: Request, num_tokens: int, block_ids: list[int]) -> None:
        """So many more of the request's tokens, for which it got these blocks."""
        token_id = request.token_ids[-1] if self.carries_tokens and request.num_unscheduled_tokens == num_tokens == 1 else None
        self.scheduled.append(ScheduledRow(request.request_id, num_tokens, block_ids, token_id))
        self.requests.append(InFlight(request, request.num_preemptions))
        self.budget -= num_tokens
        request.num_scheduled_tokens += num_tokens
        if request.num_unscheduled_tokens == 0:
            request.num_awaited_tokens += 1


@dataclass(slots=True, frozen=True)
class InFlight:
    """A row of a plan that is out. What comes back for it counts only if the request was not preempted or ended since."""

    request: Request
    num_preemptions: int

    @property
    def is_current(self) -> bool:
        return self.request.state is RequestState.RUNNING and self.request.num_preemptions == self.num_preemptions


def new_row(request: Request, block_ids: list[int]) -> NewRow:
    sampling = request.sampling
    if sampling.prompt_logprobs is not None and not request.wants_prompt_logprobs:
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)  # they are out; computing them again costs logits
    return NewRow(
        request.request_id,
        list(request.token_ids),
        request.num_prompt_tokens,
        sampling,
        block_ids,
        request.num_scheduled_tokens,
        request.adapter_id,
    )
