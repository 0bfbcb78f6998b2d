"""Limits that have no effect beside each other."""

from __future__ import annotations

import pytest

from headway.server.config.overload import OverloadConfig, overload_warnings


@pytest.mark.parametrize(
    ("whole", "queue", "told"),
    [(30.0, 30.0, "--queue-timeout 30 is not used: --request-timeout 30 ends a request before"), (30.0, 29.0, None), (None, 9.0, None)],
)
def test_a_queue_timeout_behind_the_request_timeout(whole: float | None, queue: float, told: str | None) -> None:
    assert overload_warnings(OverloadConfig(request_timeout=whole, queue_timeout=queue)) == ([told] if told else [])
