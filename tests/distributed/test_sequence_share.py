"""Where the tokens of a sequence are kept, against counting them one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headway.server.distributed.sequence_share import SequenceShare


@pytest.mark.parametrize(("size", "interleave", "page_size"), [(1, 1, 4), (2, 1, 4), (2, 4, 4), (3, 2, 6), (4, 2, 2)])
def test_every_token_is_kept_once(size: int, interleave: int, page_size: int) -> None:
    blocks = [7, 2, 5, 11, 3]
    length = 4 * page_size * size + 3
    positions = np.arange(length)
    block_ids = np.array(blocks)[positions // (page_size * size)]
    places: list[list[int]] = [[] for _ in range(size)]
    for position in range(length):
        places[position // interleave % size].append(position)
    for rank in range(size):
        share = SequenceShare(rank, size, interleave)
        expected = np.full(length, -1)
        for place, position in enumerate(places[rank]):
            expected[position] = blocks[place // page_size] * page_size + place % page_size
        assert share.slots(block_ids, positions, page_size).tolist() == expected.tolist()
        counts = [sum(position < end for position in places[rank]) for end in range(length + 1)]
        assert share.num_kept(torch.arange(length + 1)).tolist() == counts
