"""Progress lines, and the numbers in them."""

from __future__ import annotations

import pytest

from headway.server.source.progress import Progress


def test_a_line_every_few_seconds() -> None:
    now = 100.0
    lines: list[str] = []
    progress = Progress("downloading m", 4_000_000_000, lines.append, done_bytes=1_000_000_000, clock=lambda: now)
    progress.advance(100_000_000)
    now = 102.9
    progress.advance(100_000_000)
    assert lines == []
    now = 104.0
    progress.advance(200_000_000)
    assert lines == ["downloading m: 35% of 4.0 GB, 100.0 MB/s, 26 s left"]
    now = 105.0
    progress.advance(1)
    assert len(lines) == 1
    now = 110.0
    progress.reach(3_999_000_000)
    progress.reach(1)
    now = 200.0
    progress.reach(4_000_000_000)
    assert lines[1:] == ["downloading m: 99% of 4.0 GB, 299.9 MB/s, 0 s left", "downloading m: 100% of 4.0 GB, 30.0 MB/s"]


@pytest.mark.parametrize(
    ("total", "left"), [(10_000, "100 s"), (60_000, "10 min"), (1_000_000, "2.8 h")], ids=["seconds", "minutes", "hours"]
)
def test_time_left(total: int, left: str) -> None:
    now = 0.0
    lines: list[str] = []
    progress = Progress("x", total, lines.append, clock=lambda: now)
    now = 10.0
    progress.advance(1000)
    assert left.split()[1] in lines[0]
