"""`headway bench serve` against a small real HTTP server."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pretend_openai_server import PretendServer, serving
from rich.console import Console

from headway.server.bench import cli
from headway.server.bench.client import Session, Work
from headway.server.bench.errors import BenchError
from headway.server.bench.load import Pace, arrival_times, run_load
from headway.server.bench.serve import bench_serve


def bench(*argv: str, environ: dict[str, str] | None = None) -> tuple[int, str, PretendServer]:
    """(exit status, what was printed, the server as it was left)."""

    async def run() -> tuple[int, str, PretendServer]:
        async with serving() as (server, url):
            options = cli._parser().parse_args(["serve", "--url", url, *argv])
            console = Console(file=io.StringIO(), width=160)
            status = await asyncio.to_thread(bench_serve, options, environ or {}, console)
            assert isinstance(console.file, io.StringIO)
            return status, console.file.getvalue(), server

    return asyncio.run(run())


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_run_reports_what_happened(endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    size = ("--num-prompts", "6", "--input-len", "20", "--prefix-len", "30", "--output-len", "5", "--concurrency", "2", "--warmup", "1")
    status, text, server = bench("--endpoint", endpoint, *size, "--json", str(file))
    assert status == 0
    record = json.loads(file.read_text())
    result = record["result"]
    assert record["model"] == "pretend"  # the first that the server lists
    assert (result["num_requests"], result["num_errors"], result["num_without_usage"]) == (6, 0, 0)
    assert result["num_output_tokens"] == 30
    assert result["num_prompt_tokens"] == 6 * 50  # exact: calibrated by the server's own counts
    assert server.max_open == 2
    assert 0 < result["ttft_ms"]["p50"] <= result["e2e_ms"]["p50"] <= result["e2e_ms"]["p99"] <= result["wall_s"] * 1e3
    assert "TPOT ms" in text
    assert "6 ok" in text
    measured = [_prompt(body) for body in server.bodies[-6:]]
    assert len(set(measured)) == 6
    assert len({" ".join(prompt.split()[:29]) for prompt in measured}) == 1  # the shared prefix, its BOS apart
    assert all(body["ignore_eos"] and body["temperature"] == 0 and body["max_tokens"] == 5 for body in server.bodies[-6:])


def _prompt(body: dict[str, Any]) -> str:
    return str(body["prompt"] if "prompt" in body else body["messages"][0]["content"])


def test_the_same_seed_makes_the_same_prompts() -> None:
    argv = ("--num-prompts", "3", "--input-len", "12", "--output-len", "1", "--warmup", "0")
    runs = [[_prompt(body) for body in bench(*argv, "--seed", seed)[2].bodies[-3:]] for seed in ("4", "4", "5")]
    assert sorted(runs[0]) == sorted(runs[1]) != sorted(runs[2])


@pytest.mark.parametrize(("model", "says"), [("breaks", "the engine has stopped"), ("cuts", "ClientPayloadError")])
def test_requests_that_fail_are_counted_and_the_status_is_1(model: str, says: str, tmp_path: Path, word_tokenizer: Path) -> None:
    file = tmp_path / "result.json"
    argv = ("--model", model, "--num-prompts", "4", "--warmup", "0", "--input-len", "9", "--tokenizer", str(word_tokenizer))
    status, text, _ = bench(*argv, "--json", str(file))
    assert status == 1
    assert "4 failed" in text
    assert says in text
    result = json.loads(file.read_text())["result"]
    assert result["num_errors"] == sum(result["errors"].values()) == 4
    assert result["ttft_ms"]["p50"] is None


def test_a_server_that_refuses_stops_the_run_before_it_is_measured() -> None:
    with pytest.raises(BenchError, match=r"HTTP 500.*out of luck"):
        bench("--model", "fails")


def test_without_usage_chunks_are_counted_and_that_is_said(word_tokenizer: Path) -> None:
    status, text, _ = bench("--model", "no-usage", "--num-prompts", "2", "--output-len", "3", "--tokenizer", str(word_tokenizer))
    assert status == 0
    assert "counted as chunks" in text
    with pytest.raises(BenchError, match="give --tokenizer"):
        bench("--model", "no-usage")


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(BenchError, match=r"127\.0\.0\.1:9/v1/models can't be read.*Is a server running there\?"):
        cli.main(["serve", "--url", "http://127.0.0.1:9"])


def test_the_key_comes_from_the_environment_and_stays_there(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    argv = ("--num-prompts", "1", "--output-len", "1", "--json", str(file))
    _, text, server = bench(*argv, environ={"OPENAI_API_KEY": "other", "HEADWAY_BENCH_API_KEY": "sesame"})
    assert set(server.authorizations) == {"Bearer sesame"}
    assert "sesame" not in text + file.read_text()
    assert set(bench(*argv)[2].authorizations) == {None}


def test_arrivals_are_poisson() -> None:
    times = arrival_times(4001, rate=20.0, seed=1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] == 0.0
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 20, rel=0.05)
    variance = sum((gap - 1 / 20) ** 2 for gap in gaps) / len(gaps)
    assert variance == pytest.approx(1 / 400, rel=0.15)
    assert arrival_times(3, float("inf"), 0) == [0.0, 0.0, 0.0]


def test_a_rate_and_a_limit_hold_together() -> None:
    async def run() -> int:
        async with serving() as (server, url), Session(url) as session:
            load = await run_load(session, Work("pretend", "completions", 20), ["a"] * 12, Pace(rate=2000.0, concurrency=3))
            assert [outcome.error for outcome in load.outcomes] == [None] * 12
            return server.max_open

    assert asyncio.run(run()) <= 3


@pytest.mark.parametrize(
    "argv",
    [["serve", "--num-prompts", "0"], ["serve", "--request-rate", "-1"], ["serve", "--input-len", "x"], [], ["serve", "--api-key", "k"]],
)
def test_wrong_options_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(argv)
    assert exit_info.value.code == 2
    assert "usage:" in capsys.readouterr().err
