"""The prompts whose KV an engine keeps for other servers: their blocks, from the first that is computed until nobody reads them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from headway.server.engine.kv.manager import KVCacheManager, Lease
from headway.server.engine.kv.transfer.nixl.unfetched import Unfetched
from headway.server.engine.kv.transfer.orders import Computing, MoreOffered, Offer, Order, Withdraw
from headway.server.engine.request import Request

# Whoever heard of an announcement asks its decode server while the prompt is computed: that one's reader comes soon, or never.
_ANNOUNCED_S = 15.0


@dataclass(slots=True)
class _Prompt:
    """It is let go of once all ranks have sent it, one of them has lost its reader, or at ``until``.

    ``request``: that computes it; None: it is whole. Each part of its blocks has a lease from the moment it is offered, beside the hold
    that the request has on it: so it stays readable whatever becomes of the request.
    """

    token: str
    num_ranks_left: int
    request: Request | None
    leases: list[Lease] = field(default_factory=list)
    num_offered: int = 0  # blocks
    num_computing: int = 0  # blocks, with those before
    until: float = math.inf
    is_claimed: bool = False  # as far as was told

    @property
    def block_ids(self) -> list[int]:
        return [block_id for lease in self.leases for block_id in lease.block_ids]


class Kept:
    """Gives its orders to ``order``, in their order."""

    def __init__(
        self, kv: KVCacheManager, num_ranks: int, keep_s: float, clock: Callable[[], float], order: Callable[[Order], None]
    ) -> None:
        self._kv = kv
        self._num_ranks = num_ranks
        self._keep_s = keep_s
        self._clock = clock
        self._order = order
        self._computing: dict[str, _Prompt] = {}  # by request
        self._prompts: dict[str, _Prompt] = {}  # by token
        self._unfetched = Unfetched(kv.num_blocks, clock)
        self.num_expired = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, request_id: str) -> bool:
        """Whether blocks of this request are offered while it computes."""
        return request_id in self._computing

    def begin(self, request: Request, digest: bytes) -> str:
        """The token of an offer that has no blocks yet."""
        prompt = _Prompt(secrets.token_hex(16), self._num_ranks, request)
        self._computing[request.request_id] = self._prompts[prompt.token] = prompt
        self._order(Offer(prompt.token, digest, [], is_whole=False))
        return prompt.token

    def extend(self, request: Request, block_ids: Sequence[int]) -> None:
        """Offers what is new among the prompt's first blocks, which are computed."""
        prompt = self._computing[request.request_id]
        if len(block_ids) > prompt.num_offered:
            self._offer(prompt, block_ids, is_whole=False)

    def computing(self, request: Request, block_ids: Sequence[int]) -> None:
        """The prompt's first blocks are these once the next plan has come back."""
        prompt = self._computing[request.request_id]
        first = max(prompt.num_offered, prompt.num_computing)
        if len(block_ids) > first:
            self._order(Computing(prompt.token, first, list(block_ids[first:])))
            prompt.num_computing = len(block_ids)

    def complete(self, request: Request, block_ids: Sequence[int]) -> str:
        """These are all of the prompt's blocks. Returns the token."""
        prompt = self._computing.pop(request.request_id)
        self._offer(prompt, block_ids, is_whole=True)
        keep_s = self._keep_s if prompt.is_claimed else min(self._keep_s, _ANNOUNCED_S)
        prompt.request, prompt.until = None, self._clock() + keep_s
        if not prompt.is_claimed:
            self._await_reader(prompt)
        return prompt.token

    def _offer(self, prompt: _Prompt, block_ids: Sequence[int], *, is_whole: bool) -> None:
        new = list(block_ids[prompt.num_offered :])
        if new:
            prompt.leases.append(self._kv.lease(new))
            prompt.num_offered += len(new)
        self._order(MoreOffered(prompt.token, new, is_whole))

    def add(self, digest: bytes, block_ids: Sequence[int]) -> str:
        """A prompt that is whole. Returns the token."""
        until = self._clock() + self._keep_s
        token, blocks = secrets.token_hex(16), list(block_ids)
        prompt = _Prompt(token, self._num_ranks, None, [self._kv.lease(blocks)], len(blocks), len(blocks), until)
        self._prompts[token] = prompt
        self._order(Offer(token, digest, blocks))
        self._await_reader(prompt)
        return token

    def _await_reader(self, prompt: _Prompt) -> None:
        """The prompt is whole and nobody reads it: others may have to go for it."""
        for token in self._unfetched.add(prompt.token, prompt.block_ids):
            self._let_go(self._prompts[token])
            self.num_expired += 1

    def break_off(self, request: Request) -> None:
        """What the request has not computed yet will not come. No error for a request of which nothing is offered."""
        if (prompt := self._computing.get(request.request_id)) is not None:
            self._let_go(prompt)

    def claimed(self, token: str) -> None:
        """A prompt has its reader, on one rank at least."""
        if (prompt := self._prompts.get(token)) is not None:
            prompt.is_claimed = True
            self._unfetched.remove(token)
            if prompt.request is None:
                prompt.until = self._clock() + self._keep_s

    def sent(self, token: str, is_lost: bool) -> None:
        """One rank has no reader any more. The reader may not need all, and be done before the prompt is whole."""
        prompt = self._prompts.get(token)
        if prompt is None:
            return  # let go of meanwhile
        prompt.num_ranks_left -= 1
        if is_lost or prompt.num_ranks_left == 0:
            self._let_go(prompt)

    def let_go_of_overdue(self) -> bool:
        """Whether there were any."""
        now = self._clock()
        overdue = [prompt for prompt in self._prompts.values() if prompt.until <= now]
        for prompt in overdue:
            self._let_go(prompt)
        self.num_expired += len(overdue)
        return bool(overdue)

    def _let_go(self, prompt: _Prompt) -> None:
        """Its one reader is gone, so its request keeps nothing any more either."""
        del self._prompts[prompt.token]
        self._unfetched.remove(prompt.token)
        self._order(Withdraw(prompt.token))
        for lease in prompt.leases:
            self._kv.end_lease(lease)
        if (request := prompt.request) is not None:
            del self._computing[request.request_id]
            assert request.kv_transfer is not None, "it was asked to keep something"
            request.kv_transfer = msgspec.structs.replace(request.kv_transfer, keeps=False, announces=False)

    def check(self) -> None:
        """Asserts what must hold when no request is open."""
        assert not self._computing, "a prompt is offered that nobody computes"
