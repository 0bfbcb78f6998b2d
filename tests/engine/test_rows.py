"""The runner's rows give the same inputs as counting by hand, whatever comes and goes."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.server.engine.batch import NewRow, ScheduledRow
from headway.server.engine.rows import AWAITED, RowTable, StepInputs
from headway.server.types import SamplingParams

BLOCK = 4


class ByHand:
    """One request, counted the slow way."""

    def __init__(self, tokens: list[int], blocks: list[int], computed: int) -> None:
        self.tokens, self.blocks, self.computed = tokens, blocks, computed


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_inputs_equal_counting_by_hand(rng: random.Random) -> None:
    table = RowTable(max_rows=5, max_model_len=32, page_size=BLOCK)
    known: dict[str, ByHand] = {}
    free_blocks = list(range(100))
    under_way: list[tuple[StepInputs, dict[int, ByHand]]] = []  # steps whose tokens are not told yet, with their rows by place
    for _ in range(12):
        for name in [n for n in known if rng.random() < 0.2]:
            table.remove(name)
            del known[name]
        while len(known) < 5 and rng.random() < 0.6:
            tokens = [rng.randrange(1000) for _ in range(rng.randint(1, 20))]
            blocks = [free_blocks.pop() for _ in range(-(-len(tokens) // BLOCK))]
            computed = rng.randrange(len(tokens))
            name = rng.choice([n for n in "abcdef" if n not in known])  # a name may come back, and be another request's
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
        samples = table.samples(inputs).tolist()
        sampled = {}
        for place, at in enumerate(inputs.order):
            row = known[scheduled[at].request_id]
            row.computed += scheduled[at].num_tokens
            assert (place in samples) == (row.computed == len(row.tokens))
            if place in samples:
                row.tokens.append(AWAITED)
                sampled[place] = row
        table.commit(inputs, np.array(samples, dtype=np.int64))
        under_way.append((inputs, sampled))
        while len(under_way) > rng.randrange(3):
            tell(table, *under_way.pop(0), known, rng)


def tell(table: RowTable, inputs: StepInputs, sampled: dict[int, ByHand], known: dict[str, ByHand], rng: random.Random) -> None:
    chosen = {place: rng.randrange(1000) for place in sampled}
    have_stayed = table.have_stayed(inputs)
    for place, row in sampled.items():
        assert have_stayed[place] == (row in known.values())
        row.tokens[inputs.seq_lens[place]] = chosen[place]
    places = [place for place in sampled if have_stayed[place]]
    assert table.fill(inputs, places, [chosen[place] for place in places]) == inputs.rows[places].tolist()


def test_a_row_that_went_to_another_request_hears_nothing_of_the_first() -> None:
    table = RowTable(max_rows=1, max_model_len=32, page_size=BLOCK)
    step = [ScheduledRow("a", 2, [])]
    for tokens in ([1, 2], [3, 4]):  # the second time the same name, another request
        table.add(NewRow("a", tokens, 2, SamplingParams(), [0], 0))
        inputs = table.inputs(step)
        table.commit(inputs, table.samples(inputs))
        assert table.have_stayed(inputs) == [True]
        table.remove("a")
        assert table.have_stayed(inputs) == [False]
    table.add(NewRow("b", [5, 6], 2, SamplingParams(), [0], 0))
    assert table.have_stayed(inputs) == [False]


def test_a_token_that_is_not_known_yet_is_marked() -> None:
    table = RowTable(max_rows=2, max_model_len=32, page_size=BLOCK)
    table.add(NewRow("a", [1, 2], 2, SamplingParams(), [0], 0))
    first = table.inputs([ScheduledRow("a", 2, [])])
    assert not first.has_awaited
    table.commit(first, table.samples(first))
    ahead = table.inputs([ScheduledRow("a", 1, [])])
    assert (ahead.has_awaited, ahead.token_ids.tolist(), ahead.positions.tolist()) == (True, [AWAITED], [2])
    assert table.fill(first, [0], [7]) == [table.row_of("a")]
    known = table.inputs([ScheduledRow("a", 1, [])])
    assert (known.has_awaited, known.token_ids.tolist()) == (False, [7])
