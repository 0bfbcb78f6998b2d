"""Many simulated servers behind the router's own policies, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from sim_hashes import hashes_of
from sim_quantiles import Quantiles
from sim_server import CostModel, Limits, SimulatedServer
from sim_trace import TracedRequest

from headway.server.router.load_report import LoadReport
from headway.server.router.policies.base import Policy
from headway.server.router.servers import Server
from headway.server.types import GenerateRequest, SamplingParams, TokenDelta


@dataclass(slots=True)
class Outcome:
    """Seconds and tokens of every request that is counted, and the sums over the servers of all requests."""

    ttft_s: Quantiles = field(default_factory=Quantiles)
    tpot_s: Quantiles = field(default_factory=Quantiles)
    e2e_s: Quantiles = field(default_factory=Quantiles)
    num_requests: int = 0  # of all
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    num_steps: int = 0
    busy_s: list[float] = field(default_factory=list)  # by server
    end_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        return self.num_cached_tokens / max(self.num_prompt_tokens, 1)

    @property
    def utilization(self) -> float:
        return sum(self.busy_s) / max(len(self.busy_s) * self.end_s, 1e-9)


@dataclass(slots=True)
class _Open:
    request: TracedRequest
    at: int  # of the server
    is_counted: bool
    first_s: float | None = None


class Cluster:
    """Replays one trace. Servers report their load with the first token of each answer, as they do in its headers."""

    def __init__(self, num_servers: int, policy: Policy, costs: CostModel, limits: Limits, num_key_blocks: int = 3) -> None:
        """``num_key_blocks``: how many of a prompt's first blocks make up its key; the prompts' own beginning is behind the system's."""
        self._engines = [SimulatedServer(costs, limits) for _ in range(num_servers)]
        self._servers = tuple(Server(f"http://server-{number}") for number in range(num_servers))
        self._index_of = {server.url: number for number, server in enumerate(self._servers)}
        self._policy = policy
        self._block_size = limits.block_size
        self._num_key_blocks = num_key_blocks
        self._events: list[tuple[float, int]] = []  # when which server is done; one whose server says another time by now is void
        self._open: dict[str, _Open] = {}
        self._outcome = Outcome()
        policy.update([server.url for server in self._servers])

    def replay(self, requests: Iterable[TracedRequest], num_uncounted: int = 0) -> Outcome:
        """The first ``num_uncounted`` requests only fill the caches."""
        for number, request in enumerate(requests):
            arrival_s = request.timestamp / 1000
            self._run_until(arrival_s)
            self._arrive(f"r{number}", _Open(request, self._choose(request, arrival_s), number >= num_uncounted), arrival_s)
        self._run_until(float("inf"))
        assert not self._open, "every request ends"
        self._outcome.busy_s = [engine.busy_s for engine in self._engines]
        self._outcome.num_steps = sum(engine.num_steps for engine in self._engines)
        return self._outcome

    def _choose(self, request: TracedRequest, now: float) -> int:
        key = repr(request.hash_ids[: self._num_key_blocks]).encode()
        chosen = self._policy.choose(self._servers, key, now)
        chosen.num_open += 1
        return self._index_of[chosen.url]

    def _arrive(self, request_id: str, answer: _Open, now: float) -> None:
        self._open[request_id] = answer
        self._outcome.num_requests += 1
        request, at = answer.request, answer.at
        sampling = SamplingParams(max_tokens=request.output_length, ignore_eos=True)
        asked = GenerateRequest(request_id, request.tokens(), sampling, now)
        if self._engines[at].add(asked, now, hashes_of(request, self._block_size)):
            self._await(at)

    def _run_until(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            now, at = heappop(self._events)
            engine = self._engines[at]
            if engine.ends_s != now:
                continue
            for delta in engine.finish(now):
                self._take(delta, now)
            self._outcome.end_s = now
            engine.begin(now)
            self._await(at)

    def _await(self, at: int) -> None:
        ends_s = self._engines[at].ends_s
        if ends_s is not None:
            heappush(self._events, (ends_s, at))

    def _take(self, delta: TokenDelta, now: float) -> None:
        answer, outcome = self._open[delta.request_id], self._outcome
        server = self._servers[answer.at]
        if answer.first_s is None:
            answer.first_s = now
            stats = self._engines[answer.at].stats
            server.report = LoadReport(stats.num_waiting, stats.num_blocks_used / stats.num_blocks_total, now)
        if delta.finish_reason is None:
            return
        del self._open[delta.request_id]
        server.num_open -= 1
        if answer.is_counted:
            _count(outcome, answer.request, answer.first_s, now, delta.num_cached_tokens or 0)


def _count(outcome: Outcome, request: TracedRequest, first_s: float, now: float, num_cached_tokens: int) -> None:
    arrival_s = request.timestamp / 1000
    outcome.ttft_s.add(first_s - arrival_s)
    outcome.e2e_s.add(now - arrival_s)
    if request.output_length > 1:
        outcome.tpot_s.add((now - first_s) / (request.output_length - 1))
    outcome.num_prompt_tokens += request.input_length
    outcome.num_output_tokens += request.output_length
    outcome.num_cached_tokens += num_cached_tokens
