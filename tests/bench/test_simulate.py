"""The simulation of many servers: nothing is lost in it, and it is near what was measured."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headway.server.engine.kv.prefix import extend_hashes
from headway.server.router.policies.choice import POLICIES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import simulate

    return simulate


def replay(simulate: Any, policy: str, requests: list[Any], num_uncounted: int = 0, *, num_blocks: int = 4000, **limits: int) -> Any:
    limited = simulate.Limits(num_blocks=num_blocks, **limits)
    return simulate.Cluster(4, POLICIES[policy](), simulate.H200_LLAMA_8B, limited).replay(requests, num_uncounted)


def test_a_measured_run_is_met(simulate: Any) -> None:
    assert simulate.main(["--validate"]) == 0


def test_a_made_trace_is_in_order_and_takes_up_what_was_said(simulate: Any, tmp_path: Path) -> None:
    shape = simulate.Shape(num_apps=3, system_tokens=1024)
    trace = list(simulate.make_trace(shape, requests_per_s=50.0, num_requests=2000, seed=1))
    assert trace == list(simulate.make_trace(shape, requests_per_s=50.0, num_requests=2000, seed=1))
    times = [request.timestamp for request in trace]
    assert times == sorted(times)
    assert times[500] == pytest.approx(10_000, rel=0.2), "as many a second at once as later"
    assert times[-1] == pytest.approx(40_000, rel=0.1)
    assert {tuple(request.hash_ids[:2]) for request in trace} == {(0, 1), (2, 3), (4, 5)}, "system prompts"
    longer = [request for request in trace if any(other.hash_ids == request.hash_ids[: len(other.hash_ids)] for other in trace[:200])]
    assert len(longer) > 200, "later turns repeat the earlier ones"

    file = tmp_path / "trace.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(request) + b"\n" for request in trace))
    read = list(simulate.read_trace(file, speed=2.0))
    assert [request.timestamp for request in read] == [time / 2 for time in times]
    assert [request.tokens() for request in read[:5]] == [request.tokens() for request in trace[:5]]


def test_blocks_are_hashed_as_the_engine_hashes_them(simulate: Any) -> None:
    from sim_hashes import hashes_of

    for request in (simulate.TracedRequest(0.0, 1500, 1, [3, 4, 5]), simulate.TracedRequest(0.0, 1536, 1, [3, 4, 6])):
        for block_size in (16, 512):
            hashes: list[bytes] = []
            extend_hashes(hashes, request.input_length // 512 * (512 // block_size), request.tokens(), block_size, None)
            assert hashes_of(request, block_size) == hashes
        assert hashes_of(request, 48) == [], "these fit no block of the trace"


def test_requests_that_fill_the_caches_are_not_counted(simulate: Any) -> None:
    trace = list(simulate.make_trace(simulate.Shape(num_apps=5), requests_per_s=20.0, num_requests=200, seed=2))
    outcome = replay(simulate, "prefix", trace, num_uncounted=150)
    assert (outcome.num_requests, outcome.ttft_s.num_values, outcome.e2e_s.num_values) == (200, 50, 50)
    assert outcome.num_output_tokens == sum(request.output_length for request in trace[150:])
    assert outcome.hit_rate > replay(simulate, "prefix", trace[:50]).hit_rate


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_request_ends_with_all_its_tokens(simulate: Any, policy: str) -> None:
    """On caches so small that requests give way and start over."""
    trace = list(simulate.make_trace(simulate.Shape(num_apps=5), requests_per_s=30.0, num_requests=200, seed=2))
    outcome = replay(simulate, policy, trace, num_blocks=1500)
    assert outcome.ttft_s.num_values == len(trace)
    assert outcome.num_output_tokens == sum(request.output_length for request in trace)
    assert outcome.num_prompt_tokens == sum(request.input_length for request in trace)
    assert outcome.ttft_s.at(0.0) >= simulate.H200_LLAMA_8B.weights_s
    assert 0 < outcome.utilization <= 1


@pytest.mark.parametrize(
    "limits", [{"num_blocks": 1500}, {"num_blocks": 90, "block_size": 512}, {"num_blocks": 1500, "block_size": 64, "max_num_seqs": 6}]
)
def test_steps_in_one_go_are_the_steps_one_by_one(simulate: Any, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With requests that arrive between, wait, and give way: where no row is set aside the scheduler decides all, and decides the same."""
    import sim_scheduler
    from sim_server import SimulatedServer

    trace = list(simulate.make_trace(simulate.Shape(num_apps=5), requests_per_s=25.0, num_requests=120, seed=4))
    num_rows = 0
    schedule = SimulatedServer._schedule

    def counted(self: Any) -> None:
        nonlocal num_rows
        schedule(self)
        num_rows += len(self._brings_token)

    monkeypatch.setattr(SimulatedServer, "_schedule", counted)
    in_one_go = replay(simulate, "prefix", trace, **limits)
    num_rows_in_one_go, num_rows = num_rows, 0
    monkeypatch.setattr(sim_scheduler.FastForward, "_num_fitting", lambda self: 0)
    one_by_one = replay(simulate, "prefix", trace, **limits)
    assert num_rows_in_one_go < 0.9 * num_rows
    assert (in_one_go.num_steps, in_one_go.num_cached_tokens) == (one_by_one.num_steps, one_by_one.num_cached_tokens)
    assert in_one_go.end_s == pytest.approx(one_by_one.end_s, rel=1e-9)
    assert in_one_go.busy_s == pytest.approx(one_by_one.busy_s, rel=1e-9)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert in_one_go.ttft_s.at(share) == one_by_one.ttft_s.at(share)
        assert in_one_go.tpot_s.at(share) == one_by_one.tpot_s.at(share)


def test_percentiles_are_within_half_a_percent(simulate: Any) -> None:
    from sim_quantiles import Quantiles

    quantiles = Quantiles()
    assert quantiles.at(0.5) == 0.0
    for number in range(1, 10_001):
        quantiles.add(number * 1e-4)
    assert [quantiles.at(share) for share in (0.0, 0.5, 0.99)] == pytest.approx([1e-4, 0.5, 0.99], rel=0.006)
    assert quantiles.at(1.0) == pytest.approx(1.0, rel=0.006)


def test_beginnings_that_stay_together_are_computed_once(simulate: Any) -> None:
    trace = list(simulate.make_trace(simulate.Shape(num_apps=60), requests_per_s=20.0, num_requests=300, seed=3))
    by_prefix, in_turn = replay(simulate, "prefix", trace), replay(simulate, "round-robin", trace)
    assert by_prefix.hit_rate > 1.1 * in_turn.hit_rate


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--policies", "best"], "best is none of least-load"),
        (["--rates", "8,0"], "more than 0"),
        (["--servers", "0"], "at least 1"),
        (["--warm-up", "-1"], "at least 0"),
        (["--trace", "none.jsonl"], "--trace none.jsonl: "),
        (["--figures", "none.json"], "--figures: "),
    ],
)
def test_what_cannot_be_simulated_is_said(simulate: Any, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        simulate.main(argv)
    assert said in f"{caught.value.code} {capsys.readouterr().err}"


def test_a_table_and_a_picture(simulate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture, figures = tmp_path / "load.png", tmp_path / "load.json"
    argv = ["--servers", "2", "--requests", "40", "--rates", "2,4", "--policies", "prefix", "--progress", "20", "--json", str(figures)]
    assert simulate.main(argv) == 0
    said = capsys.readouterr()
    assert said.out.count("| prefix |") == 2
    assert "prefix at 4: 20 of 40 requests" in said.err
    assert simulate.main(["--figures", str(figures), "--plot", str(picture)]) == 0
    assert capsys.readouterr().out.splitlines() == said.out.splitlines()[2:]
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_trace_and_keeps_the_figures(
    simulate: Any, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(options: Any, rate: float) -> Iterator[Any]:
        for index, request in enumerate(make(options, rate)):
            if index == 20:
                signal.raise_signal(number)
            yield request

    make, before = simulate._requests, signal.getsignal(number)
    monkeypatch.setattr(simulate, "_requests", signalled)
    figures = tmp_path / "load.json"
    assert simulate.main(["--servers", "2", "--requests", "40", "--rates", "2,4", "--json", str(figures)]) == 0
    assert [row["requests"] for row in msgspec.json.decode(figures.read_bytes())] == [20], "and no other load is begun"
    assert signal.getsignal(number) == before
