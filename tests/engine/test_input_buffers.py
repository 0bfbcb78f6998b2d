"""A step's inputs arrive as they were, wherever the steps before left something, and padding harms nothing."""

from __future__ import annotations

import random

import numpy as np
import torch
from step_inputs import step
from torch import Tensor

from headway.server.engine.input_buffers import InputBuffers

CPU = torch.device("cpu")


def same(found: Tensor, expected: object) -> bool:
    return bool(np.array_equal(found.numpy(), np.asarray(expected)))


def test_arrives_as_it_was() -> None:
    rng = random.Random(0)
    buffers = InputBuffers(64, 8, 10, CPU)
    for _ in range(20):
        lengths = sorted(rng.choices((1, 1, 2, 7), k=rng.randint(1, 8)))
        inputs = step(rng, lengths)
        wanted = np.array(sorted(rng.sample(range(sum(lengths)), rng.randint(0, len(lengths)))), dtype=np.int64)
        token_ids, batch = buffers.load(inputs, wanted, len(lengths))
        assert same(token_ids, inputs.token_ids)
        for name in ("positions", "slot_mapping", "query_start_loc", "seq_lens"):
            assert same(getattr(batch, name), getattr(inputs, name)), name
        assert same(batch.block_tables[:, : inputs.block_tables.shape[1]], inputs.block_tables)
        assert same(batch.logits_indices, wanted)
        assert (batch.num_decodes, batch.query_lens, batch.seq_lens_host) == (inputs.num_decodes, inputs.query_lens, inputs.seq_lens)
        assert (batch.max_query_len, batch.max_seq_len) == (max(lengths), max(inputs.seq_lens))
        tensors = (token_ids, batch.positions, batch.slot_mapping, batch.query_start_loc, batch.seq_lens, batch.logits_indices)
        assert all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def test_padding_writes_nowhere_and_reads_one_key() -> None:
    rng = random.Random(1)
    buffers = InputBuffers(64, 8, 10, CPU)
    buffers.load(step(rng, [1] * 8), np.arange(8), 8)
    inputs = step(rng, [1] * 3)
    token_ids, batch = buffers.load(inputs, np.arange(3), 5)
    assert same(token_ids, [*inputs.token_ids, 0, 0])
    assert same(batch.positions, [*inputs.positions, 0, 0])
    assert same(batch.slot_mapping, [*inputs.slot_mapping, -1, -1])
    assert same(batch.query_start_loc, [0, 1, 2, 3, 4, 5])
    assert same(batch.seq_lens, [*inputs.seq_lens, 1, 1])
    assert same(batch.block_tables[3:, 0], [0, 0])
    assert same(batch.logits_indices, [0, 1, 2])
    assert (batch.num_decodes, batch.query_lens, batch.seq_lens_host) == (5, [1] * 5, [*inputs.seq_lens, 1, 1])


def test_decode_steps_of_a_size_have_the_same_addresses() -> None:
    """Whatever their block tables and the rows that want logits."""
    rng = random.Random(2)
    buffers = InputBuffers(64, 8, 10, CPU)
    addresses = set()
    for num_rows, wanted in ((5, 5), (5, 2), (3, 3), (1, 0)):
        token_ids, batch = buffers.load(step(rng, [1] * num_rows), np.arange(wanted), 5)
        tensors = (token_ids, batch.positions, batch.slot_mapping, batch.query_start_loc, batch.seq_lens, batch.block_tables)
        addresses.add(tuple(tensor.data_ptr() for tensor in tensors))
    assert len(addresses) == 1
