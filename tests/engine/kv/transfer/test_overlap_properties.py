"""A prefill and a decode server whose requests, connections and processes end at any moment: no block is freed twice, none is left over,
and what counts as read is the KV of the prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from headway.server.engine.batch import BatchPlan, BatchResult, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.nixl.layer_progress import HostProgress, LayerProgress
from headway.server.engine.kv.transfer.nixl.offers import Known, Offers, Part
from headway.server.engine.kv.transfer.nixl.policy import Address, NixlPolicy
from headway.server.engine.kv.transfer.orders import Computing, Fetch, Fetched, MoreOffered, Offer, Report, Sent, Settled, Withdraw
from headway.server.engine.request import Request
from headway.server.engine.scheduler import Scheduler
from headway.server.types import GenerateRequest, KVSource, KVTransfer, SamplingParams, TokenDelta

BLOCK, NUM_BLOCKS, KEEP_S = 4, 24, 100.0
NUM_LAYERS = 3
Content = tuple[int, int, int]  # prompt, block of it, tokens in it


@dataclass
class Row:
    """Of a step: its request has so many tokens behind it."""

    request: Request
    block_ids: list[int]
    num_tokens: int


@dataclass
class Side:
    """A server without a device: ``contents`` is what the layers of its blocks hold."""

    plan: BatchPlan | None = None
    now: float = 0.0
    reports: list[Report] = field(default_factory=list)
    contents: dict[tuple[int, int], Content] = field(default_factory=dict)
    ends: dict[str, TokenDelta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kv = KVCacheManager(NUM_BLOCKS, BLOCK, enable_prefix_caching=True)
        self.policy = NixlPolicy(self.kv, Address("e", "h", 1), num_ranks=1, recomputes=False, keep_s=KEEP_S, clock=lambda: self.now)
        self.scheduler = Scheduler(kv=self.kv, max_num_batched_tokens=8, max_num_seqs=4, max_model_len=64, connector=self.policy)

    def begin(self) -> list[Row] | None:
        """The rows of the next step."""
        self.policy.take_in(self.reports)
        self.reports.clear()
        self.plan = self.scheduler.schedule()
        if self.plan is None:
            self._note(self.scheduler.take_refused())
            return None
        requests = [self.scheduler._open[row.request_id] for row in self.plan.scheduled]
        return [Row(request, self.kv.block_ids(request), request.num_scheduled_tokens) for request in requests]

    def write(self, rows: list[Row], layer: int) -> None:
        for row in rows:
            for index in range(-(-row.num_tokens // BLOCK)):
                content = (row.request.token_ids[0], index, min(row.num_tokens - index * BLOCK, BLOCK))
                self.contents[row.block_ids[index], layer] = content

    def finish(self, rows: list[Row]) -> None:
        results = [RowResult([1] if row.num_tokens == row.request.num_prompt_tokens else []) for row in rows]
        assert self.plan is not None
        self._note(self.scheduler.update(self.plan, BatchResult(results)))
        self._note(self.scheduler.take_refused())
        self.scheduler.check()

    def step(self) -> None:
        if (rows := self.begin()) is not None:
            self.finish(rows)

    def _note(self, deltas: list[TokenDelta]) -> None:
        self.ends |= {delta.request_id: delta for delta in deltas if delta.finish_reason is not None}

    def abort(self, request_id: str) -> None:
        self._note(self.scheduler.abort([request_id]))


@dataclass
class Read:
    """A fetch of the decode server's, by way of the prefill server's offers."""

    fetch: Fetch
    known: Known = field(default_factory=lambda: Known(0))
    is_claimed: bool = False
    got: dict[tuple[int, int], Content | None] = field(default_factory=dict)  # by block of the prompt, and layer


class Both:
    def __init__(self) -> None:
        self.prefill, self.decode = Side(), Side()
        self.offers = Offers(NUM_LAYERS, HostProgress)
        self.reads: list[Read] = []
        self.unsettled: list[int] = []
        self.sources: dict[int, KVSource] = {}
        self.num_prompts = 0
        self.lengths: dict[int, int] = {}
        self.rows: list[Row] | None = None  # of the prefill server's step that is under way
        self.layer = 0
        self.progress: LayerProgress | None = None

    def prefill_step(self) -> None:
        """A piece of one: its beginning, a layer, or its end."""
        side = self.prefill
        if self.rows is None:
            self.rows, self.layer = side.begin(), 0
            self.carry_orders()
            self.progress = self.offers.begin_step() if self.rows is not None else None
        elif self.layer < NUM_LAYERS:
            side.write(self.rows, self.layer)
            self.layer += 1
            if self.progress is not None:
                self.progress.on_layer()
        else:
            rows, self.rows = self.rows, None
            side.finish(rows)

    def carry_orders(self) -> None:
        for order in self.prefill.policy.take_orders():
            match order:
                case Offer():
                    self.offers.add(order)
                case MoreOffered():
                    self.offers.extend(order)
                case Computing():
                    self.offers.compute(order)
                case Withdraw(token=token):
                    self.offers.withdraw(token)
        for request_id, source in self.prefill.policy.take_announced():
            self.sources[int(request_id)] = source
        self.reads += [Read(order) for order in self.decode.policy.take_orders() if isinstance(order, Fetch)]

    def ask(self, num_tokens: int, announces: bool) -> None:
        self.num_prompts += 1
        self._add(self.prefill, self.num_prompts, num_tokens, KVTransfer(keeps=True, announces=announces))

    def _add(self, side: Side, number: int, num_tokens: int, transfer: KVTransfer) -> None:
        self.lengths[number] = num_tokens
        prompt = [number * 100 + index for index in range(num_tokens)]
        side.scheduler.add(GenerateRequest(str(number), prompt, SamplingParams(max_tokens=1), 0.0, kv_transfer=transfer))

    def decode_one(self, pick: int) -> None:
        for number, end in ((int(request_id), end) for request_id, end in self.prefill.ends.items()):
            if end.kv_source is not None:
                self.sources.setdefault(number, end.kv_source)
        if self.sources:
            number = sorted(self.sources)[pick % len(self.sources)]
            if str(number) not in self.decode.ends and str(number) not in self.decode.scheduler._open:
                self._add(self.decode, number, self.lengths[number], KVTransfer(source=self.sources[number]))
                self.decode.step()

    def read(self, pick: int) -> None:
        """A step of one fetch: claim, a part, or the release."""
        if not self.reads:
            return
        read = self.reads[pick % len(self.reads)]
        fetch, token = read.fetch, read.fetch.source.token
        if not read.is_claimed:
            if self.offers.claim(token, fetch.digest) is not None:
                self._fail(read)
            read.is_claimed = True
        elif read.known.num_blocks < fetch.first_block + len(fetch.block_ids) and fetch.block_ids:
            part = self.offers.part(token, read.known)
            if part is None:
                self._fail(read)
            elif part.block_ids:
                self._take(read, part)
        else:
            self._release(read)

    def _take(self, read: Read, part: Part) -> None:
        known = read.known
        assert known.num_begun in (0, len(part.block_ids))
        for at, block in enumerate(part.block_ids):
            for layer in range(known.num_layers, part.end_layer):
                read.got[known.num_blocks + at, layer] = self.prefill.contents.get((block, layer))
        if part.end_layer == NUM_LAYERS:
            read.known = Known(known.num_blocks + len(part.block_ids))
        else:
            read.known = Known(known.num_blocks, len(part.block_ids), part.end_layer)

    def _release(self, read: Read) -> None:
        token = read.fetch.source.token
        was_held = self.offers.release(token)
        if not was_held:
            self._fail(read)
            return
        self.prefill.reports.append(Sent(token))
        self.decode.reports.append(Fetched(read.fetch.fetch_id))
        self.reads.remove(read)
        number = next(number for number, source in self.sources.items() if source.token == token)
        assert len(read.got) == read.known.num_blocks * NUM_LAYERS
        for (index, _), content in read.got.items():
            num_tokens = min(self.lengths[number] - index * BLOCK, BLOCK)
            assert content is not None
            assert content[:2] == (number * 100, index)
            assert content[2] >= num_tokens, "a block was read before it was full"

    def _fail(self, read: Read) -> None:
        self.reads.remove(read)
        self.decode.reports.append(Fetched(read.fetch.fetch_id, "It is gone.", is_settled=False))
        self.unsettled.append(read.fetch.fetch_id)

    def cut(self, pick: int) -> None:
        """One connection ends: either side hears of it."""
        if self.reads:
            read = self.reads[pick % len(self.reads)]
            if read.is_claimed and self.offers.release(read.fetch.source.token):
                self.prefill.reports.append(Sent(read.fetch.source.token, is_lost=True))
            self._fail(read)

    def settle(self) -> None:
        self.decode.reports += [Settled(fetch_id) for fetch_id in self.unsettled if fetch_id in self.decode.policy._incoming]
        self.unsettled.clear()

    def die(self, which: str) -> None:
        """A process is gone, with all that it had; all connections end."""
        while self.reads:
            self.cut(0)
        self.sources.clear()
        if which == "prefill":
            self.rows = None
            self.prefill, self.offers = Side(), Offers(NUM_LAYERS, HostProgress)
        else:
            self.decode, self.unsettled = Side(), []


ASK = st.tuples(st.just("ask"), st.integers(1, 40), st.sampled_from([True, True, False]))
OPERATIONS = st.one_of(
    ASK,
    st.tuples(st.just("prefill_step"), st.just(1)),
    st.tuples(st.just("prefill_step"), st.just(5)),
    st.tuples(st.just("decode_one"), st.integers(0, 5)),
    st.tuples(st.just("read"), st.integers(0, 5)),
    st.tuples(st.just("read"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["decode", "settle"])),
    st.tuples(st.just("cut"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["abort_prefill", "abort_decode"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["late", "preempt", "prefill_dies", "decode_dies"])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERATIONS, min_size=20, max_size=60))
def test_no_block_is_freed_twice_or_left(operations: list[tuple[object, ...]]) -> None:
    both = Both()
    for name, *rest in operations:
        match name:
            case "prefill_step":
                for _ in range(rest[0]):  # type: ignore[call-overload]
                    both.prefill_step()
                    both.carry_orders()
            case "decode":
                both.decode.step()
            case "abort_prefill" | "abort_decode":
                side = both.prefill if name == "abort_prefill" else both.decode
                if open_ones := side.scheduler.open_request_ids():
                    side.abort(open_ones[rest[0] % len(open_ones)])  # type: ignore[operator]
            case "late":
                both.prefill.now += KEEP_S
            case "preempt":
                both.prefill.scheduler.preempt_all()
            case "prefill_dies" | "decode_dies":
                both.die(str(name).removesuffix("_dies"))
            case _:
                getattr(both, str(name))(*rest)
        both.carry_orders()
    _end(both)


def _end(both: Both) -> None:
    """Everybody goes on until nothing is open, and whoever keeps something waits for long enough."""
    for _ in range(40):
        for _ in range(12):
            for step in (*[both.prefill_step] * (NUM_LAYERS + 2), both.decode.step, both.settle):
                step()
                both.carry_orders()
            for pick in range(8):
                both.read(pick)
                both.carry_orders()
        both.prefill.now += KEEP_S
        sides = (both.prefill, both.decode)
        if not any(side.scheduler.has_work or side.policy.has_leases for side in sides):
            break
    for side in sides:
        assert not side.scheduler.open_request_ids()
        assert not side.policy.has_leases
        assert side.kv.num_used_blocks == 0
        side.scheduler.check()
