"""Random lives of requests on a cache that is too small, with copies that come late, in pieces and not at all: no block is read or filled
with anything but what it should hold, and none is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from headway.server.engine.batch import BatchResult, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.offload.policy import OffloadPolicy
from headway.server.engine.kv.transfer.offload.tier import Tier
from headway.server.engine.kv.transfer.orders import Copied, Discard, Load, Loaded, Order, Report, Save, Saved
from headway.server.engine.request import Request
from headway.server.engine.scheduler import Scheduler
from headway.server.types import GenerateRequest, SamplingParams

BLOCK = 4


class World:
    """What is in each block, slot and file, by the hash that it should have."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kv = KVCacheManager(24, BLOCK, enable_prefix_caching=True)
        self.policy = OffloadPolicy(self.kv, memory=Tier(10), disk=Tier(30), num_ranks=1)
        self.scheduler = Scheduler(kv=self.kv, max_num_batched_tokens=40, max_num_seqs=6, max_model_len=64, connector=self.policy)
        self.blocks: dict[int, bytes] = {}
        self.slots: dict[int, bytes] = {}
        self.files: set[bytes] = set()
        self.loads: list[Load] = []
        self.others: list[Order] = []
        self.copied: list[Save] = []
        self.num_loaded = 0
        self.kv.watcher = self

    def on_published(self, request: Request, block_hashes: list[bytes]) -> None:
        first = request.block_hashes.index(block_hashes[0])
        for block_id, block_hash in zip(self.kv.block_ids(request)[first:], block_hashes, strict=False):
            self.blocks[block_id] = block_hash
        self.policy.on_published(request, block_hashes)

    def on_broken(self, block_hashes: list[bytes]) -> None:
        self.policy.on_broken(block_hashes)

    def step(self) -> None:
        plan = self.scheduler.schedule()
        self.take_orders()
        if plan is not None:
            for row in plan.scheduled:
                for block_id in row.new_block_ids:
                    self.blocks.pop(block_id, None)
            self.scheduler.update(plan, BatchResult([RowResult([self.random.randrange(9)]) for _ in plan.scheduled]))
        self.scheduler.check()
        self.take_orders()

    def take_orders(self) -> None:
        for order in self.policy.take_orders():
            (self.loads if isinstance(order, Load) else self.others).append(order)  # type: ignore[arg-type]

    def work(self) -> Iterator[Report]:
        """A little of what a worker would have done by now."""
        if self.copied:
            save = self.copied.pop()
            is_filed = self.random.random() < 0.9
            self.files |= {block.block_hash for block in save.blocks if block.is_filed and is_filed}
            yield Saved(save.save_id, True, is_filed, 1, 0.0)
        elif self.loads:
            yield self.load(self.loads.pop(0))
        elif self.others:
            order = self.others.pop(0)
            if isinstance(order, Discard):
                self.files -= set(order.block_hashes)
            elif isinstance(order, Save):
                for block in order.blocks:
                    assert self.blocks[block.block_id] == block.block_hash, "what is copied is what it is called"
                    if block.slot is not None:
                        self.slots[block.slot] = block.block_hash
                self.copied.append(order)
                yield Copied(order.save_id)

    def load(self, order: Load) -> Loaded:
        lost = []
        for block in order.blocks:
            if block.slot is not None:
                assert self.slots[block.slot] == block.block_hash
            elif block.block_hash not in self.files or self.random.random() < 0.05:
                lost.append(block.block_hash)
                continue
            self.blocks[block.block_id] = block.block_hash
            self.num_loaded += 1
        return Loaded(order.load_id, "Some are gone." if lost else None, lost, 1, 0.0)


@pytest.mark.parametrize("seed", range(12))
def test_every_block_holds_what_it_should(seed: int) -> None:
    world = World(seed)
    chance = world.random
    names: list[str] = []
    for number in range(400):
        if len(world.scheduler.open_request_ids()) < 8:
            prompt = [chance.randrange(3)] * 9 + [chance.randrange(2) for _ in range(chance.randrange(24))]
            names.append(str(number))
            world.scheduler.add(GenerateRequest(names[-1], prompt, SamplingParams(max_tokens=chance.randrange(1, 12)), 0.0))
        if chance.random() < 0.05:
            world.scheduler.abort([chance.choice(names)])
        if chance.random() < 0.02:
            world.scheduler.preempt_all()
        if chance.random() < 0.02:
            world.kv.reset_prefix_cache()
        world.step()
        if chance.random() < 0.6:
            world.policy.take_in(list(world.work()))
    world.scheduler.abort(names)
    while world.policy.has_leases or world.copied or world.others or world.loads:
        world.take_orders()
        world.policy.take_in(list(world.work()))
    world.take_orders()
    world.scheduler.check()
    assert world.kv.num_used_blocks == 0
    assert world.num_loaded > 0
