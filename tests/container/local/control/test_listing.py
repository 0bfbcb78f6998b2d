"""Filters by time, held against what the calls themselves have told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from headway.container.local.control.listing import page
from headway.container.local.control.protocol import seconds_of
from headway.container.local.control.registry import Record

MOMENT = datetime(2026, 11, 25, 12, 0, 0, 123456, UTC)


def names(**request: Any) -> list[dict[str, Any]]:
    record = Record("one", "arn:one", {}, {})
    record.created = MOMENT
    return list(page(request, [record], "Names", lambda record: {"Name": record.name})["Names"])


def test_a_moment_as_it_was_told_is_neither_before_nor_after_itself() -> None:
    assert names(CreationTimeAfter=seconds_of(MOMENT)) == []
    assert names(CreationTimeBefore=seconds_of(MOMENT)) == []
    assert names(CreationTimeAfter=seconds_of(MOMENT) - 0.001, CreationTimeBefore=seconds_of(MOMENT) + 0.001) == [{"Name": "one"}]
