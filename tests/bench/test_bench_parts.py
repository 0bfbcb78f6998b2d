"""Prompts of exact length, percentiles, CPU accounting, servers that are surely stopped."""

from __future__ import annotations

import math
import os
import socket
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.server.bench import server_process
from headway.server.bench.errors import BenchError
from headway.server.bench.machine import CpuMeter, describe_machine, tree_rss_bytes
from headway.server.bench.outcome import Outcome
from headway.server.bench.prompts import PromptMaker, tokenizer_counter
from headway.server.bench.report import percentile, summarize
from headway.server.bench.server_process import ServerFailed, ServerProcess, free_port

PRETEND = Path(__file__).parents[1] / "support" / "pretend_openai_server.py"


@pytest.mark.parametrize(("input_len", "prefix_len"), [(1, 0), (2, 0), (7, 0), (128, 0), (1024, 0), (1, 1), (32, 1024), (5, 3)])
def test_prompts_have_the_exact_length(input_len: int, prefix_len: int, word_tokenizer: Path) -> None:
    count = tokenizer_counter(word_tokenizer)
    prompts = PromptMaker(count, input_len, prefix_len, seed=1).prompts(5)
    assert [count(prompt) for prompt in prompts] == [input_len + prefix_len] * 5
    if input_len > 5:
        assert len(set(prompts)) == 5
    if prefix_len:
        words = [prompt.split() for prompt in prompts]
        num_shared = next((i for i, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), len(words[0]))
        assert count(" ".join(words[0][:num_shared])) >= prefix_len


def test_an_unreadable_tokenizer_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"nothing\.json"):
        tokenizer_counter(tmp_path / "nothing.json")


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=50), percent=st.sampled_from([0, 50, 90, 99, 100]))
def test_percentiles_are_numpys(values: list[float], percent: int) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(float(np.percentile(values, percent)))


def test_summaries_count_only_what_went_well() -> None:
    good = Outcome(1.0, 3.0, [1.5, 2.0, 2.5], num_prompt_tokens=10, num_output_tokens=5, num_cached_tokens=4, has_usage=True)
    single = Outcome(1.0, 1.2, [1.1], num_prompt_tokens=2, num_output_tokens=1, has_usage=True)
    bad = Outcome(1.0, 9.0, [2.0], num_prompt_tokens=99, num_output_tokens=99, error="HTTP 500")
    summary = summarize([good, single, bad], wall_s=2.0)
    assert (summary.num_requests, summary.num_errors, summary.errors) == (3, 1, {"HTTP 500": 1})
    assert (summary.num_prompt_tokens, summary.num_output_tokens, summary.num_cached_tokens) == (12, 6, 4)
    assert (summary.requests_per_s, summary.output_tokens_per_s, summary.total_tokens_per_s) == (1.0, 3.0, 9.0)
    assert summary.ttft_ms.max == pytest.approx(500)
    assert summary.tpot_ms.mean == pytest.approx(250)  # (2.5 - 1.5) / 4, the single token has none
    assert summary.itl_ms.p50 == pytest.approx(500)
    assert summary.e2e_ms.max == pytest.approx(2000)
    assert math.isnan(summarize([], 0.0).ttft_ms.p50)
    assert summarize([], 0.0).as_json()["ttft_ms"]["p50"] is None


def test_a_server_is_ready_then_gone_with_its_children() -> None:
    port = free_port()
    script = f"import subprocess, sys; subprocess.run([sys.executable, {str(PRETEND)!r}, '{port}'])"
    with ServerProcess([sys.executable, "-c", script], os.environ, f"http://127.0.0.1:{port}") as server:
        assert server.wait_ready(60.0) > 0
        tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(tree) == 2
        assert tree_rss_bytes(server.pid) > 1e6
    psutil.wait_procs(tree, timeout=60)
    assert not [process for process in tree if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_free_port_is_nobody_s_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a server binds it, seconds later: no connection of another process is given it."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < first_given for _ in range(20))
    port = free_port()
    monkeypatch.setattr(server_process, "_PORTS", (port, port + 1))
    with socket.create_server(("127.0.0.1", port)):
        assert {free_port() for _ in range(20)} == {port + 1}


def test_a_server_that_ends_early_shows_its_last_lines() -> None:
    script = "import sys; print('no such model', file=sys.stderr); sys.exit(3)"
    with (
        ServerProcess([sys.executable, "-c", script], os.environ, "http://127.0.0.1:9") as server,
        pytest.raises(ServerFailed, match=r"status 3 (.|\n)*no such model"),
    ):
        server.wait_ready(60.0)
    with pytest.raises(ServerFailed, match="can't be started"), ServerProcess(["/no/such/server"], {}, "http://127.0.0.1:9"):
        pass


def test_cpu_of_this_process_is_not_called_others() -> None:
    meter = CpuMeter(os.getpid())
    before = psutil.Process().cpu_times()
    while sum(psutil.Process().cpu_times()[:2]) - sum(before[:2]) < 0.2:
        sum(range(10_000))
    use = meter.read()
    assert use.server > 0
    assert use.others >= 0


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["chip"]
