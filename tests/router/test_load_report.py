"""What is read of a server's load, and what this server writes of its own."""

from __future__ import annotations

import pytest

from headway.server.api.orca import load_report
from headway.server.router.load_report import read_report
from headway.server.types import EngineStats


@pytest.mark.parametrize("form", ["TEXT", "JSON"])
def test_what_our_server_writes_is_read(form: str) -> None:
    report = read_report(load_report(EngineStats(num_blocks_used=1, num_blocks_total=4, num_waiting=3), form), at=7.0)
    assert report is not None
    assert (report.num_waiting, report.kv_usage, report.at) == (3.0, 0.25, 7.0)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "BIN abc",
        "TEXT",
        "TEXT named_metrics.other=1",
        "TEXT named_metrics.num_requests_waiting=nan",
        "TEXT named_metrics.num_requests_waiting=-1",
        'JSON {"named_metrics": 5}',
        'JSON {"named_metrics": {"num_requests_waiting": "many"}}',
        "JSON {",
        "JSON " + "[" * 4000,
        "TEXT named_metrics.num_requests_waiting=1" + " " * 5000,
    ],
)
def test_anything_else_is_no_report(header: str) -> None:
    assert read_report(header, at=0.0) is None
