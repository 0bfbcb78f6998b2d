"""Two ranks of two servers, with NIXL between them: what arrives, and what becomes of blocks when one side is not as it should be."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec
import pytest
import torch
from polling import wait_until
from ports import claimed_port

from headway.kernels.kv_cache import INT8, int8_blocks
from headway.server.engine.kv.transfer.layout import BlockLayout
from headway.server.engine.kv.transfer.nixl import reader as reader_module
from headway.server.engine.kv.transfer.nixl.agent import Agent, Read, TransferFailed
from headway.server.engine.kv.transfer.nixl.keeper import Keeper, Own
from headway.server.engine.kv.transfer.nixl.offers import Known
from headway.server.engine.kv.transfer.nixl.pages import Pages, runs_of
from headway.server.engine.kv.transfer.nixl.reader import address_of
from headway.server.engine.kv.transfer.nixl.wire import Claim, Ready, Refused
from headway.server.engine.kv.transfer.nixl.worker import Listening, NixlWorker
from headway.server.engine.kv.transfer.orders import Claimed, Computing, Fetch, Fetched, MoreOffered, Offer, Report, Sent, Settled, Withdraw
from headway.server.errors import ConfigError
from headway.server.layers.forward import LayerKV
from headway.server.types import KVSource

pytest.importorskip("nixl_cu12")

LAYOUT = BlockLayout(
    model="m",
    weight_format="fp32",
    dtype="float32",
    page_size=4,
    num_stages=1,
    num_tensor_ranks=1,
    num_prompt_shares=1,
    num_context_ranks=1,
    interleave=1,
    num_layers=3,
    num_kv_heads=2,
    head_dim=8,
    rank=0,
    rotation=0,
)


@dataclass
class Rank:
    kv: list[LayerKV]
    pages: Pages
    worker: NixlWorker
    port: int
    reports: list[Report] = field(default_factory=list)

    def next_report(self) -> Report:
        def there() -> bool:
            self.reports += [report for report in self.worker.take_reports() if not isinstance(report, Claimed)]
            return bool(self.reports)

        wait_until(there)
        return self.reports.pop(0)

    def fetch(self, keeper: Rank, blocks: list[int], *, token: str = "token", digest: bytes = b"digest", first: int = 0) -> Fetched:
        source = KVSource("other", token, "127.0.0.1", keeper.port, 1)
        self.worker.order([Fetch(1, source, digest, first, blocks)])
        report = self.next_report()
        assert isinstance(report, Fetched)
        return report


MakeRank = Callable[..., Rank]


@pytest.fixture(autouse=True)
def _both_sides_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_CLAIM_S", "_NEXT_S", "_STALL_S"):
        monkeypatch.setattr(reader_module, limit, 30.0)


@pytest.fixture
def make_rank() -> Iterator[MakeRank]:
    with ExitStack() as stack:

        def make(
            layout: BlockLayout = LAYOUT, secret: bytes = b"", keep_s: float = 30, *, keeps: bool = True, shares_values: bool = False
        ) -> Rank:
            shape = (16, layout.page_size, layout.num_kv_heads, layout.head_dim)
            if layout.dtype == "int8":
                blocks = [[torch.randint(-128, 128, int8_blocks(*shape)).to(INT8) for _ in range(2)] for _ in range(layout.num_layers)]
                kv = [LayerKV.of_int8_blocks(k, v, *shape[1:]) for k, v in blocks]
            else:
                keys = [torch.randn(shape) for _ in range(layout.num_layers)]
                kv = [LayerKV(k, k if shares_values else torch.randn(shape)) for k in keys]
            pages, port = Pages(kv), claimed_port()
            own = Own(pages, Agent(f"test-{secrets.token_hex(8)}", ["UCX"], pages), layout, secret)
            worker = NixlWorker(own, Listening("127.0.0.1", port, keep_s) if keeps else None, compares=True)
            stack.callback(worker.close)
            return Rank(kv, pages, worker, port)

        yield make


def test_blocks_arrive_as_they_are(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    before = [layer.k.clone() for layer in reader.kv]
    keeper.worker.order([Offer("token", b"digest", [2, 3, 9, 5])])
    done = reader.fetch(keeper, [7, 1, 2], first=1)
    assert (done.error, done.is_settled) == (None, True)
    block_bytes = 4 * 2 * 8 * 4
    assert done.num_bytes == 3 * block_bytes * 2 * 3
    assert done.num_descriptors == 3 * 2 * 3
    for mine, theirs, old in zip(reader.kv, keeper.kv, before, strict=True):
        for pages, source in ((mine.k, theirs.k), (mine.v, theirs.v)):
            assert torch.equal(pages[[7, 1, 2]], source[[3, 9, 5]])
        untouched = [block for block in range(16) if block not in (7, 1, 2)]
        assert torch.equal(mine.k[untouched], old[untouched])
    assert keeper.next_report() == Sent("token")


def test_pages_in_int8_bring_their_scales(make_rank: MakeRank) -> None:
    layout = msgspec.structs.replace(LAYOUT, dtype="int8")
    keeper, reader = make_rank(layout), make_rank(layout, keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2, 3])])
    done = reader.fetch(keeper, [7, 1])
    assert done.error is None
    assert done.num_bytes == 2 * 2 * 3 * 4 * 2 * (8 + 4)  # blocks, keys and values, layers; tokens, heads, a byte a number and the scale
    for mine, theirs in zip(reader.kv, keeper.kv, strict=True):
        assert mine.scales is not None
        assert theirs.scales is not None
        for own, source in ((mine.k, theirs.k), (mine.v, theirs.v), (mine.scales.k, theirs.scales.k), (mine.scales.v, theirs.scales.v)):
            assert own[[7, 1]].contiguous().view(torch.uint8).equal(source[[2, 3]].contiguous().view(torch.uint8))


def test_a_block_is_filled_behind_the_steps_that_were_begun_before(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device one of them may still write what an ended request has given back."""
    keeper, reader = make_rank(), make_rank(keeps=False)
    before, looks = reader.kv[0].k.clone(), []

    class Mark:
        def query(self) -> bool:
            assert torch.equal(reader.kv[0].k, before)
            looks.append(self)
            return len(looks) == 5

    monkeypatch.setattr(reader.pages, "mark", Mark)
    keeper.worker.order([Offer("token", b"digest", [2, 3])])
    assert reader.fetch(keeper, [7, 1]).error is None
    assert len(looks) == 5
    assert torch.equal(reader.kv[0].k[[7, 1]], keeper.kv[0].k[[2, 3]])


def test_a_server_of_fewer_ranks_is_told(make_rank: MakeRank) -> None:
    """By the ranks that find nobody there; the others are told what differs."""
    layout = msgspec.structs.replace(LAYOUT, num_stages=2, rank=1)
    reader = make_rank(layout, keeps=False)
    reader.worker.order([Fetch(1, KVSource("other", "token", "127.0.0.1", claimed_port() - 1, 1), b"digest", 0, [1])])
    report = reader.next_report()
    assert isinstance(report, Fetched)
    assert report.error is not None
    assert report.error.endswith("it has 1 rank and this server 2: start both alike.")


def test_each_rank_is_sought_at_its_own_host() -> None:
    spread = KVSource("e", "t", "10.0.0.1", 5600, 3, hosts=("10.0.0.1", "10.0.0.2", "10.0.0.2"))
    assert [address_of(spread, rank) for rank in range(4)] == [
        ("10.0.0.1", 5600),
        ("10.0.0.2", 5601),
        ("10.0.0.2", 5602),
        ("10.0.0.1", 5603),
    ]


def test_pages_that_are_keys_and_values_at_once(make_rank: MakeRank) -> None:
    """An odd number of layers, each with one tensor: all arrive, and a layer only once it is computed."""
    keeper, reader = make_rank(shares_values=True), make_rank(keeps=False, shares_values=True)
    keeper.worker.order([Offer("token", b"digest", [], is_whole=False), Computing("token", 0, [2, 3])])
    reader.worker.order([Fetch(1, KVSource("other", "token", "127.0.0.1", keeper.port, 1), b"digest", 0, [7, 1])])
    step = keeper.worker.begin_step()
    assert step is not None
    for layer in range(2):
        step.on_layer()
        wait_until(lambda layer=layer: torch.equal(reader.kv[layer].k[[7, 1]], keeper.kv[layer].k[[2, 3]]))
        assert not torch.equal(reader.kv[layer + 1].k[[7, 1]], keeper.kv[layer + 1].k[[2, 3]])
    step.on_layer()
    keeper.worker.order([MoreOffered("token", [2, 3], is_whole=True)])
    done = reader.next_report()
    assert isinstance(done, Fetched)
    assert (done.error, done.num_bytes) == (None, 2 * (4 * 2 * 8 * 4) * 3)
    assert torch.equal(reader.kv[2].k[[7, 1]], keeper.kv[2].k[[2, 3]])


def test_runs_of_blocks_are_one_piece() -> None:
    assert runs_of([1, 2, 3, 7, 8], [4, 5, 6, 7, 9]) == [(1, 4, 3), (7, 7, 1), (8, 9, 1)]
    assert runs_of([], []) == []


def test_blocks_are_read_as_they_are_computed(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Ready | Refused] = []
    part = Keeper._part

    async def noted(self: Keeper, claim: Claim, known: Known) -> Ready | Refused:
        told.append(await part(self, claim, known))
        return told[-1]

    monkeypatch.setattr(Keeper, "_part", noted)
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [], is_whole=False)])
    reader.worker.order([Fetch(1, KVSource("other", "token", "127.0.0.1", keeper.port, 1), b"digest", 1, [7, 1, 2])])
    wait_until(lambda: len(told) > 1)
    assert told[0] == told[1] == Ready([], False, 0, []), "that there is nothing yet is a word that the server lives"
    keeper.worker.order([MoreOffered("token", [2, 3], is_whole=False)])
    wait_until(lambda: torch.equal(reader.kv[2].v[7], keeper.kv[2].v[3]))
    assert reader.worker.take_reports() == []
    keeper.worker.order([MoreOffered("token", [9], is_whole=False), MoreOffered("token", [5], is_whole=True)])
    done = reader.next_report()
    assert isinstance(done, Fetched)
    assert done.error is None
    assert done.num_bytes == 3 * (4 * 2 * 8 * 4) * 2 * 3
    for mine, theirs in zip(reader.kv, keeper.kv, strict=True):
        assert torch.equal(mine.k[[7, 1, 2]], theirs.k[[3, 9, 5]])
    assert keeper.next_report() == Sent("token")


def test_layers_of_a_step_are_read_while_it_runs(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [], is_whole=False), Computing("token", 0, [2, 3, 9])])
    reader.worker.order([Fetch(1, KVSource("other", "token", "127.0.0.1", keeper.port, 1), b"digest", 1, [7, 1])])
    step = keeper.worker.begin_step()
    assert step is not None
    assert keeper.worker.begin_step() is None
    for layer in range(2):
        step.on_layer()
        wait_until(lambda layer=layer: torch.equal(reader.kv[layer].v[[7, 1]], keeper.kv[layer].v[[3, 9]]))
        assert not torch.equal(reader.kv[layer + 1].k[[7, 1]], keeper.kv[layer + 1].k[[3, 9]])
    step.on_layer()
    keeper.worker.order([MoreOffered("token", [2, 3], is_whole=False), MoreOffered("token", [9], is_whole=True)])
    done = reader.next_report()
    assert isinstance(done, Fetched)
    assert done.error is None
    assert done.num_bytes == 2 * (4 * 2 * 8 * 4) * 2 * 3
    assert torch.equal(reader.kv[2].v[[7, 1]], keeper.kv[2].v[[3, 9]])


def test_a_prompt_that_is_not_computed_to_its_end(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2], is_whole=False)])
    reader.worker.order([Fetch(1, KVSource("other", "token", "127.0.0.1", keeper.port, 1), b"digest", 0, [7, 1])])
    wait_until(lambda: torch.equal(reader.kv[2].v[7], keeper.kv[2].v[2]))
    keeper.worker.order([Withdraw("token")])
    failed = reader.next_report()
    assert isinstance(failed, Fetched)
    assert failed.error is not None
    assert "does not compute it to its end" in failed.error
    assert keeper.worker.take_reports() == [Claimed("token")], "the engine has withdrawn it itself"


def test_a_prefill_server_that_ends_while_it_computes(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2], is_whole=False)])
    reader.worker.order([Fetch(1, KVSource("other", "token", "127.0.0.1", keeper.port, 1), b"digest", 0, [7, 1])])
    wait_until(lambda: torch.equal(reader.kv[2].v[7], keeper.kv[2].v[2]))
    keeper.worker.close()
    failed = reader.next_report()
    assert isinstance(failed, Fetched)
    assert failed.error is not None
    assert failed.is_settled


def test_without_blocks_there_is_only_to_tell(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    assert reader.fetch(keeper, []).error is None
    assert keeper.next_report() == Sent("token")


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"token": "guess"}, "does not keep it any more"),
        ({"digest": b"of another prompt"}, "another prompt or cache_salt"),
    ],
)
def test_nobody_gets_the_kv_of_another_prompt(make_rank: MakeRank, order: dict[str, bytes], told: str) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    before = [layer.v.clone() for layer in reader.kv]
    keeper.worker.order([Offer("token", b"digest", [2, 3])])
    failed = reader.fetch(keeper, [0, 1], **order)  # type: ignore[arg-type]
    assert failed.error is not None
    assert told in failed.error
    assert all(torch.equal(layer.v, old) for layer, old in zip(reader.kv, before, strict=True))
    assert reader.fetch(keeper, [0, 1]).error is None, "the right one still gets it"


def test_more_blocks_than_the_prompt_has_are_refused(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    error = reader.fetch(keeper, [0, 1]).error
    assert error is not None
    assert "other blocks than those of the prompt" in error
    assert keeper.next_report() == Sent("token", is_lost=True)


def test_another_layout_is_refused(make_rank: MakeRank) -> None:
    keeper = make_rank()
    reader = make_rank(msgspec.structs.replace(LAYOUT, dtype="bfloat16"), keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    error = reader.fetch(keeper, [0]).error
    assert error is not None
    assert "--kv-cache-dtype differs: float32 at the prefill server, bfloat16 at the decode server" in error


def test_another_key_is_refused(make_rank: MakeRank) -> None:
    keeper, reader = make_rank(secret=b"one key"), make_rank(secret=b"another", keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    assert reader.fetch(keeper, [0]).error is not None
    keeper.worker.order([Withdraw("token")])
    assert keeper.worker.take_reports() == []


def test_what_is_withdrawn_while_it_is_read_counts_as_not_come(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    read = Agent.begin_read

    def withdrawing(*arguments: object) -> object:
        keeper.worker.order([Withdraw("token")])
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Agent, "begin_read", withdrawing)
    error = reader.fetch(keeper, [0]).error
    assert error is not None
    assert "gave the blocks to others before they were read" in error
    assert keeper.worker.take_reports() == [Claimed("token")]


def test_what_differs_is_noticed(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    monkeypatch.setattr(reader.pages, "checksums", lambda blocks, *layers: [0 for _ in blocks])
    error = reader.fetch(keeper, [0]).error
    assert error is not None
    assert "the checksums differ" in error
    assert keeper.next_report() == Sent("token", is_lost=True)


def test_a_server_that_is_not_there(make_rank: MakeRank) -> None:
    reader = make_rank(keeps=False)
    error = reader.fetch(Rank([], reader.pages, reader.worker, claimed_port()), [0]).error
    assert error is not None
    assert "did not come from the prefill server at 127.0.0.1:" in error


def test_a_server_that_says_nothing(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_CLAIM_S", 0.5)
    reader = make_rank(keeps=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = reader.fetch(Rank([], reader.pages, reader.worker, silent.getsockname()[1]), [0]).error
    assert error is not None
    assert "did not answer in time" in error


def test_a_server_that_ends_while_it_is_read(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    read = Agent.begin_read

    def ending(*arguments: object) -> object:
        keeper.worker.close()
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Agent, "begin_read", ending)
    failed = reader.fetch(keeper, [0])
    assert failed.error is not None
    assert failed.is_settled


def test_addresses_that_no_memory_has_leave_no_block_waiting_for_its_read(make_rank: MakeRank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefill server that is not what it says: the first layer's read stands still, and the second can't begin."""
    keeper, reader = make_rank(), make_rank(keeps=False)
    keeper.worker.order([Offer("token", b"digest", [2])])
    of_layer = Pages.of_layer

    def beyond(pages: Pages, addresses: list[int], layer: int) -> Sequence[int]:
        return [1 << 64] if layer == 1 else of_layer(pages, addresses, layer)

    def stands_still(agent: Agent, read: Read) -> bool:
        if not agent._known:
            raise TransferFailed("the connection is ended")
        return False

    monkeypatch.setattr(Pages, "of_layer", beyond)
    monkeypatch.setattr(Agent, "look", stands_still)
    failed = reader.fetch(keeper, [0])
    assert failed.error is not None
    assert not failed.is_settled
    assert reader.next_report() == Settled(1)


def test_a_taken_port_is_said(make_rank: MakeRank) -> None:
    keeper = make_rank()
    own = keeper.worker._own
    with pytest.raises(ConfigError, match="--nixl-side-channel-port to a free port"):
        NixlWorker(own, Listening("127.0.0.1", keeper.port, 1), compares=False)
