"""Inputs of a step over random rows, as the runner's table makes them."""

from __future__ import annotations

import random

from headway.server.engine.batch import NewRow, ScheduledRow
from headway.server.engine.rows import RowTable, StepInputs
from headway.server.types import SamplingParams

BLOCK = 4


def step(rng: random.Random, lengths: list[int]) -> StepInputs:
    """Rows that compute so many tokens, the last of up to 30."""
    table = RowTable(max_rows=8, max_model_len=40, page_size=BLOCK)
    scheduled = []
    for i, length in enumerate(lengths):
        computed = rng.randrange(30 - length)
        tokens = [rng.randrange(1000) for _ in range(computed + length)]
        blocks = rng.sample(range(100), -(-len(tokens) // BLOCK))
        table.add(NewRow(str(i), tokens, len(tokens), SamplingParams(), blocks, computed))
        scheduled.append(ScheduledRow(str(i), length, []))
    return table.inputs(scheduled)
