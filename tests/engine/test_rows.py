"""The runner's rows give the same inputs as counting by hand, whatever comes and goes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from headway.server.engine.batch import NewRow, ScheduledRow
from headway.server.engine.rows import RowTable
from headway.server.types import SamplingParams

BLOCK = 4


class ByHand:
    """One request, counted the slow way."""

    def __init__(self, tokens: list[int], blocks: list[int], computed: int) -> None:
        self.tokens, self.blocks, self.computed = tokens, blocks, computed


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_inputs_equal_counting_by_hand(rng: random.Random) -> None:
    table = RowTable(max_rows=5, max_model_len=32, block_size=BLOCK)
    known: dict[str, ByHand] = {}
    free_blocks = list(range(100))
    for step in range(12):
        for name in [n for n in known if rng.random() < 0.2]:
            table.remove(name)
            del known[name]
        while len(known) < 5 and rng.random() < 0.6:
            tokens = [rng.randrange(1000) for _ in range(rng.randint(1, 20))]
            blocks = [free_blocks.pop() for _ in range(-(-len(tokens) // BLOCK))]
            computed = rng.randrange(len(tokens))
            name = f"{step}-{len(known)}-{rng.random()}"
            table.add(NewRow(name, tokens, len(tokens), SamplingParams(), blocks, computed))
            known[name] = ByHand(tokens, blocks, computed)
        if not known or len(free_blocks) < 20:
            break
        scheduled = []
        for name, row in known.items():
            if len(row.tokens) >= 31:
                continue
            count = rng.randint(1, len(row.tokens) - row.computed)
            new = [free_blocks.pop()] if len(row.blocks) * BLOCK < row.computed + count else []
            row.blocks += new
            scheduled.append(ScheduledRow(name, count, new))
        if not scheduled:
            continue
        table.extend(scheduled)
        inputs = table.inputs(scheduled)
        tokens, positions, slots = [], [], []
        for at in inputs.order:
            row = known[scheduled[at].request_id]
            for position in range(row.computed, row.computed + scheduled[at].num_tokens):
                tokens.append(row.tokens[position])
                positions.append(position)
                slots.append(row.blocks[position // BLOCK] * BLOCK + position % BLOCK)
        assert inputs.token_ids.tolist() == tokens
        assert inputs.positions.tolist() == positions
        assert inputs.slot_mapping.tolist() == slots
        lens = [scheduled[at].num_tokens for at in inputs.order]
        assert inputs.query_lens == lens
        assert lens[: inputs.num_decodes] == [1] * inputs.num_decodes
        assert all(count > 1 for count in lens[inputs.num_decodes :])
        samples = table.samples(inputs)
        sampled = {}
        for at, does in zip(inputs.order, samples, strict=True):
            row = known[scheduled[at].request_id]
            row.computed += scheduled[at].num_tokens
            assert does == (row.computed == len(row.tokens))
            if does:
                row.tokens.append(rng.randrange(1000))
                sampled[table.row_of(scheduled[at].request_id)] = row.tokens[-1]
        table.commit(inputs, sampled)
