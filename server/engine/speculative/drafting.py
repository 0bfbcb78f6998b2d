"""The scheduler's side of speculation: which drafts join a step, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.request import Request
from headway.server.engine.speculative.gain import Acceptance, Offer, StepCosts, worthwhile
from headway.server.engine.step_making import Step
from headway.server.stats import DraftStats


class Proposer(Protocol):
    """Guesses what comes next, without a tensor."""

    def propose(self, request_id: str, token_ids: Sequence[int], num_drafts: int) -> list[int]:
        """At most so many tokens; ``token_ids`` are the request's, which only ever grow."""
        ...

    def forget(self, request_id: str) -> None: ...


class Drafting:
    """Owns what is known of each open request's drafts, and of the cost of steps. One step is under way at a time."""

    def __init__(self, proposer: Proposer, num_drafts: int) -> None:
        """``num_drafts``: most of a request in a step."""
        self._proposer = proposer
        self._most = num_drafts
        self._costs = StepCosts()
        self._acceptance: dict[str, Acceptance] = {}
        self._under_way: tuple[float, int] | None = None  # since when, how many tokens; None: nothing to learn from
        self._num_drafts = self._num_draft_tokens = 0
        self._num_accepted = [0] * num_drafts  # by position

    def extend(self, step: Step, kv: KVCacheManager, max_len: int) -> None:
        """Adds drafts to the decodes of a step that is planned: they take of its budget and of the free blocks what nobody else wanted."""
        num_tokens = sum(row.num_tokens for row in step.scheduled)
        decodes = [place for place, entry in enumerate(step.requests) if _decodes(entry.request, step.scheduled[place].num_tokens)]
        if step.budget > 0 and decodes:
            self._add_drafts(step, decodes, num_tokens, kv, max_len)
        is_plain = len(decodes) == len(step.scheduled)
        num_tokens = sum(row.num_query_tokens for row in step.scheduled)
        self._under_way = (step.now, num_tokens) if is_plain and decodes else None

    def _add_drafts(self, step: Step, decodes: list[int], num_tokens: int, kv: KVCacheManager, max_len: int) -> None:
        """Nobody is asked for drafts of requests of which none would be taken, however many there were."""
        requests = [step.requests[place].request for place in decodes]
        chances = [self._acceptance.setdefault(request.request_id, Acceptance()).chance for request in requests]

        def taken(lengths: list[int]) -> list[int]:
            offers = [Offer(chance, length) for chance, length in zip(chances, lengths, strict=True)]
            return worthwhile(self._costs, num_tokens, len(decodes), offers, step.budget)

        wanted = taken([self._most_of(request, max_len) for request in requests])
        drafts = [self._propose(request, most) for request, most in zip(requests, wanted, strict=True)]
        lengths = [len(found) for found in drafts]
        # Asked anew only if some were not found: of what was wanted all is taken, and the rule takes 0.6 ms for 256 requests (2026-11).
        counts = taken(lengths) if lengths != wanted and any(lengths) else lengths
        for i, (place, request, found, count) in enumerate(zip(decodes, requests, drafts, counts, strict=True)):
            if count:
                self._add_to_row(step, place, found[:count], kv)
            elif found or not wanted[i]:
                self._acceptance[request.request_id].fade()

    def _most_of(self, request: Request, max_len: int) -> int:
        left = min(request.sampling.max_tokens - request.num_output_tokens, max_len - request.num_tokens) - 1
        return max(min(self._most, left), 0)

    def _propose(self, request: Request, most: int) -> list[int]:
        return self._proposer.propose(request.request_id, request.token_ids, most) if most else []

    def _add_to_row(self, step: Step, place: int, drafts: list[int], kv: KVCacheManager) -> None:
        request, row = step.requests[place].request, step.scheduled[place]
        block_ids = kv.allocate(request, request.num_tokens + len(drafts))
        if block_ids is not None:
            step.scheduled[place] = replace(row, new_block_ids=row.new_block_ids + block_ids, drafts=drafts)
            step.budget -= len(drafts)

    def end_step(self, now: float) -> None:
        """The step that was extended last has come back."""
        if self._under_way is not None:
            started, num_tokens = self._under_way
            self._costs.learn(num_tokens, now - started)
            self._under_way = None

    def learn(self, request: Request, num_drafts: int, num_accepted: int) -> None:
        if num_drafts:
            self._acceptance[request.request_id].learn(num_drafts, num_accepted)
            self._num_drafts += 1
            self._num_draft_tokens += num_drafts
            for position in range(num_accepted):
                self._num_accepted[position] += 1

    def forget(self, request: Request) -> None:
        """It has ended."""
        self._proposer.forget(request.request_id)
        self._acceptance.pop(request.request_id, None)

    def stats(self) -> DraftStats:
        return DraftStats(self._num_drafts, self._num_draft_tokens, tuple(self._num_accepted))


def _decodes(request: Request, num_tokens: int) -> bool:
    """Whether the newest of its tokens, and no more, is computed; its prompt has been answered."""
    return num_tokens == 1 and request.has_answered and request.num_unscheduled_tokens <= 1
