"""A KV connector: policy on the scheduler's side, tensors on each worker's. Neither knows of HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headway.server.engine.kv.transfer.orders import Order, Report
from headway.server.engine.request import Request
from headway.server.layers.forward import LayerWatcher
from headway.server.stats import TransferStats
from headway.server.types import KVSource


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request's KV is there, of so many tokens, or, with ``error``, will not come."""

    request: Request
    num_tokens: int
    error: str | None = None


class SchedulerSide(Protocol):
    """Which KV comes from outside, which is kept for others, and which blocks either holds meanwhile. Not thread-safe.

    Blocks that a transfer reads or writes have a lease at the KV manager, whatever becomes of their request, and each ends once.
    """

    @property
    def recomputes(self) -> bool:
        """Whether a request whose KV does not come computes it; else it fails."""
        ...

    @property
    def is_fetching(self) -> bool: ...

    @property
    def has_leases(self) -> bool: ...

    def num_external_tokens(self, request: Request, num_cached: int) -> int:
        """How many tokens behind the first ``num_cached`` have KV that can be fetched; one at least is left to compute. 0: none."""
        ...

    def begin_fetch(self, request: Request, block_ids: Sequence[int], num_cached: int, num_external: int) -> None:
        """Of a request that holds ``block_ids``. It ends with an ``Arrival``, unless ``forget`` comes first."""
        ...

    def decline(self, request: Request) -> None:
        """The request does not need what is kept for it."""
        ...

    def forget(self, request: Request) -> None:
        """The request has ended while its KV was on its way."""
        ...

    def offer_computed(self, request: Request, block_ids: Sequence[int]) -> None:
        """A request that ``announces`` runs, holds ``block_ids`` and has computed its ``num_computed_tokens``. The first call announces."""
        ...

    def offer_computing(self, request: Request, block_ids: Sequence[int]) -> None:
        """The same: the next plan computes it as far as its ``num_scheduled_tokens``."""
        ...

    def take_announced(self) -> list[tuple[str, KVSource]]:
        """Requests, and where their KV will be: once each. To be told once ``take_orders`` are with the workers."""
        ...

    def break_off(self, request: Request) -> None:
        """The request ends without an answer, or starts over: what was announced of it does not come."""
        ...

    def keep(self, request: Request, block_ids: Sequence[int]) -> KVSource | None:
        """The request ends with an answer and holds ``block_ids``: where its prompt's KV is kept, if it is to be."""
        ...

    def take_arrivals(self) -> list[Arrival]:
        """Once each, in the order in which they came."""
        ...

    def take_in(self, reports: Iterable[Report]) -> bool:
        """What the workers have done, and what is overdue. Returns whether something has changed."""
        ...

    def take_orders(self) -> list[Order]:
        """For all workers, before the plan that was made with them."""
        ...

    def take_stats(self) -> TransferStats:
        """Of now; transfers that are done are told once."""
        ...

    def check(self) -> None:
        """Asserts what must hold when nothing is open."""
        ...


class WorkerSide(Protocol):
    """Moves the pages of one rank, beside its steps. Each call returns at once."""

    def order(self, orders: Sequence[Order]) -> None:
        """A withdrawal holds when this returns."""
        ...

    def begin_step(self) -> LayerWatcher | None:
        """A forward pass begins that carries out the plan behind the last orders, on their thread. None: nobody waits for its layers."""
        ...

    def take_reports(self) -> list[Report]:
        """What is done, once."""
        ...

    def close(self) -> None:
        """Lets go of connections and threads."""
        ...
