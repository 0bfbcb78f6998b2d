"""The sets of paths in api/paths.py, which the middleware goes by, against the operations and the table of routes."""

from __future__ import annotations

from headway.server.api.paths import GENERATION_PATHS, INFERENCE_PATHS, POOLING_PATHS
from headway.server.api.routes.table import ROUTES
from headway.server.api.serving import operations


def test_each_operation_is_reached_by_a_path_of_inference() -> None:
    paths = {found.path for found in vars(operations).values() if isinstance(found, operations.Operation)}
    assert len(paths) > 10
    assert paths <= INFERENCE_PATHS


def test_each_path_of_inference_is_a_route() -> None:
    assert {route.path for route in ROUTES if route.methods == "POST"} >= INFERENCE_PATHS
    assert not GENERATION_PATHS & POOLING_PATHS


def test_an_alias_is_among_the_paths_of_what_it_stands_for() -> None:
    """Such as /v1/score beside /score: under no limit, otherwise."""
    for paths in (GENERATION_PATHS, POOLING_PATHS, INFERENCE_PATHS):
        docs = [route.docs for route in ROUTES if route.path in paths]
        assert {route.path for route in ROUTES if route.docs in docs} == paths
