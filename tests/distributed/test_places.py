"""Which rank is where, and which layers are a stage's."""

from __future__ import annotations

import pytest

from headway.server.distributed.places import WHOLE, PipelineStage, RankPlace


@pytest.mark.parametrize(
    ("num_layers", "counts"),
    [(30, [15, 15]), (3, [2, 1]), (30, [7, 8, 8, 7]), (31, [8, 8, 8, 7]), (29, [7, 8, 7, 7]), (4, [1, 1, 1, 1]), (9, [9])],
)
def test_layers_are_shared_evenly_and_the_last_stage_has_no_more_than_others(num_layers: int, counts: list[int]) -> None:
    stages = [PipelineStage(index, len(counts)).layers(num_layers) for index in range(len(counts))]
    assert [len(layers) for layers in stages] == counts
    assert [i for layers in stages for i in layers] == list(range(num_layers))


def test_rank_0_has_the_end_of_the_model() -> None:
    places = [RankPlace(rank, 2, 3) for rank in range(6)]
    assert [(place.stage.index, place.stage_rank) for place in places] == [(2, 0), (2, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    assert [(place.stage.is_first, place.stage.is_last) for place in places[::2]] == [(False, True), (False, False), (True, False)]
    assert places[0].num_ranks == 6
    assert RankPlace(0, 1).stage == WHOLE
    dealt = [RankPlace(rank, 2, 2, 3) for rank in range(12)]
    assert [place.stage.index for place in dealt] == [1] * 6 + [0] * 6
    assert [place.stage_rank for place in dealt] == [*range(6)] * 2
    assert dealt[0].num_ranks == 12
    assert WHOLE.is_first
    assert WHOLE.is_last
