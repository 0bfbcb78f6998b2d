"""benchmarks/compare.py as a user runs it, with pretend servers in the place of peers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PRETEND = ROOT / "tests" / "support" / "pretend_openai_server.py"

# Runs compare.py with another server in headway's place: what is tested here is the comparison.
_STAND_IN = """
import sys
sys.path.insert(0, {benchmarks!r})
import peers
peers._headway = lambda options: peers.Peer("headway", [sys.executable, {server!r}, "{{port}}"], "0")
import compare
sys.exit(compare.main(sys.argv[1:]))
"""


def command(*argv: str, server: Path = PRETEND) -> list[str]:
    return [sys.executable, "-c", _STAND_IN.format(benchmarks=str(ROOT / "benchmarks"), server=str(server)), *argv]


def compare(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*argv), capture_output=True, text=True, check=False, env={"COLUMNS": "200"})


def test_all_works_in_alternating_rounds(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    peer = f"other={sys.executable} {PRETEND} {{port}}"
    done = compare("--peer", peer, "--rounds", "2", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(file.read_text())
    assert [(run["peer"], run["round_index"]) for run in record["runs"]] == [("headway", 0), ("other", 0), ("other", 1), ("headway", 1)]
    assert record["date"]
    assert record["machine"]["chip"]
    for run in record["runs"]:
        assert run["ready_s"] > 0
        cells = {cell["job"]: cell["summary"] for cell in run["cells"]}
        assert list(cells) == ["c1", "c8", "c32", "prefill", "prefix"]
        assert {name: cell["num_requests"] for name, cell in cells.items()} == {"c1": 1, "c8": 8, "c32": 32, "prefill": 4, "prefix": 8}
        assert cells["prefill"]["num_prompt_tokens"] == 4 * 1024
        assert cells["prefix"]["num_prompt_tokens"] == 8 * (1024 + 32)
        assert cells["c8"]["num_output_tokens"] == 8 * 64
    assert "over other" in done.stdout
    assert "of the machine's limit" in done.stdout
    bounds = {work["name"]: work["bound_s"] for work in record["works"]}
    assert bounds["c32"] > bounds["c8"] > 0
    assert min(record["limits"].values()) > 0


def test_a_peer_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    peer = f"broken={sys.executable} -c exit(7) {{port}}"
    done = compare("--peer", peer, "--rounds", "1", "--quick", "--work", "c1", "--json", str(file))
    assert done.returncode == 1
    runs = json.loads(file.read_text())["runs"]
    assert runs[0]["failure"] is None
    assert "status 7" in runs[1]["failure"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_comparison_leaves_no_server(stop: signal.Signals, tmp_path: Path) -> None:
    """The server here never answers; it has a child, as real ones do."""
    server = tmp_path / "hangs.py"
    server.write_text("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import signal; signal.pause()'])\n")
    with subprocess.Popen(command(server=server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as comparison:
        limit = time.monotonic() + 60
        while len(started := psutil.Process(comparison.pid).children(recursive=True)) < 2:
            assert time.monotonic() < limit
        comparison.send_signal(stop)
        assert comparison.wait(60) == 1
    psutil.wait_procs(started, timeout=60)
    assert not [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_wrong_options_are_one_line() -> None:
    for argv, says in (
        (["--work", "c9"], "choose from c1, c8"),
        (["--llama-server", "x"], "go together"),
        (["--peer", "a=b"], "{port}"),
        (["--rounds", "0"], "at least 1"),
    ):
        done = compare(*argv)
        assert done.returncode == 2
        assert says in done.stderr
