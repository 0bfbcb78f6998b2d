"""The statistics line: vLLM's words, at which level, and about what."""

from __future__ import annotations

import logging

import pytest
from api_server import ApiServer
from fake_engine import FakeEngine, fake_info
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.stats_log import StatsLog
from headway.server.api.throughput import Throughput
from headway.server.counts import Counts
from headway.server.types import EngineStats


class Lines:
    """A statistics log whose time the test sets."""

    def __init__(self) -> None:
        self.engine = FakeEngine(byte_level_tokenizer())
        self.throughput = Throughput(Counts.alone())
        self.seconds = 0.0
        self._log = StatsLog(self.engine, self.throughput, 10.0, clock=lambda: self.seconds)

    def next(self) -> tuple[int, str]:
        self.seconds += 10
        return self._log.next_line()


def test_the_line_is_vllm_s() -> None:
    lines = Lines()
    lines.throughput.count_prompt(300, 100)
    lines.throughput.count_generated(505)
    lines.engine.stats = EngineStats(
        num_running=3, num_waiting=1, num_blocks_used=1, num_blocks_total=8, num_preemptions=2, prefix_cache_queries=300
    )
    assert lines.next() == (
        logging.INFO,
        "Engine 000: Avg prompt throughput: 20.0 tokens/s, Avg generation throughput: 50.5 tokens/s, Running: 3 reqs, Waiting: 1 reqs, "
        "Preemptions: 2, CPU KV cache usage: 12.5%, Prefix cache hit rate: 33.3%",
    )
    lines.engine.info = fake_info(1)
    lines.engine.stats = EngineStats(num_preemptions=2, num_blocks_total=8)
    assert lines.next()[1] == (
        "Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 0.0 tokens/s, Running: 0 reqs, Waiting: 0 reqs, "
        "CPU KV cache usage: 0.0%"
    )


def test_of_several_engines_it_is_about_all(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    monkeypatch.setattr(FakeEngine, "engines", property(lambda self: (self, self)))
    assert lines.next()[1].startswith("2 Engines Aggregated: Avg prompt throughput: ")


@pytest.mark.parametrize(("device", "word"), [("cuda:0 NVIDIA H200", "GPU"), ("cpu", "CPU")])
def test_the_cache_is_named_after_the_device(device: str, word: str) -> None:
    lines = Lines()
    info = fake_info(1)
    lines.engine.info = type(info)(**{field: getattr(info, field) for field in info.__struct_fields__} | {"device": device})
    assert f" {word} KV cache usage: " in lines.next()[1]


def test_a_quiet_server_says_so_once() -> None:
    lines = Lines()
    assert lines.next()[0] == logging.DEBUG  # nothing has been asked yet
    lines.throughput.count_generated(1)
    assert [lines.next()[0] for _ in range(3)] == [logging.INFO, logging.INFO, logging.DEBUG]
    lines.engine.stats = EngineStats(num_running=1)  # and no token: what a hung engine looks like
    assert [lines.next()[0] for _ in range(3)] == [logging.INFO] * 3


def test_the_hit_rate_is_that_of_the_last_thousand_requests() -> None:
    throughput = Throughput(Counts.alone())
    assert throughput.hit_rate == 0
    for _ in range(1000):
        throughput.count_prompt(10, 0)
    for _ in range(250):
        throughput.count_prompt(10, 8)
    assert throughput.hit_rate == pytest.approx(0.2)


def test_it_is_written_as_often_as_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "headway"), ApiServer(observability={"log_stats_interval": 0.02}) as server:
        server.wait_for(lambda: sum("Avg generation throughput" in message for message in caplog.messages) >= 2)
    caplog.clear()
    options = {"disable_log_stats": True, "log_stats_interval": 0.001}
    with caplog.at_level(logging.DEBUG, "headway"), ApiServer(observability=options) as quiet:
        assert quiet.post("/v1/completions", {"prompt": "x"}).status_code == 200
    assert not any("throughput" in message for message in caplog.messages)
