"""Which decode steps are captured, by what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.config.graphs import GraphsConfig, graph_sizes, graphs_problems


@pytest.mark.parametrize(
    ("asked", "max_num_seqs", "sizes"),
    [
        ({}, 1, (1,)),
        ({}, 3, (1, 2, 3)),
        ({}, 20, (1, 2, 4, 8, 16, 20)),
        ({"max_cudagraph_capture_size": 8}, 256, (1, 2, 4, 8)),
        ({"max_cudagraph_capture_size": 999}, 5, (1, 2, 4, 5)),
        ({"max_cudagraph_capture_size": 0}, 256, ()),
        ({"cudagraph_capture_sizes": ["8", "1", "8", "300"]}, 256, (1, 8, 256)),
        ({"cudagraph_capture_sizes": ["300", "512"]}, 256, (256,)),
        ({"enforce_eager": True}, 256, ()),
        ({"enforce_eager": True, "cudagraph_capture_sizes": ["8"]}, 256, ()),
    ],
)
def test_sizes(asked: dict[str, Any], max_num_seqs: int, sizes: tuple[int, ...]) -> None:
    graphs = GraphsConfig(**asked)
    assert graphs_problems(graphs) == []
    assert graph_sizes(graphs, max_num_seqs) == sizes


def test_default_sizes_are_those_of_vllm() -> None:
    sizes = graph_sizes(GraphsConfig(), 1024)
    assert sizes == (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    assert graph_sizes(GraphsConfig(), 256) == (1, 2, 4, *range(8, 257, 8))


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"cudagraph_capture_sizes": ["1", "x"]}, "--cudagraph-capture-sizes: expected whole numbers from 1, got 'x'"),
        ({"cudagraph_capture_sizes": ["0"]}, "--cudagraph-capture-sizes: expected whole numbers from 1, got '0'"),
        (
            {"cudagraph_capture_sizes": ["1", "8"], "max_cudagraph_capture_size": 4},
            "--max-cudagraph-capture-size 4 is not the largest of --cudagraph-capture-sizes 1 8: leave it out",
        ),
    ],
)
def test_problems(asked: dict[str, Any], problem: str) -> None:
    assert graphs_problems(GraphsConfig(**asked)) == [problem]
