"""Programs as users write them, each with its own client, against one server with the demo model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "programs"
INSTALLED = Path(os.environ.get("HEADWAY_CLIENTS", ROOT / ".venv" / "clients"))  # what `make clients` makes

Program = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def demo() -> Iterator[LiveServer]:
    with LiveServer("demo", "--max-model-len", "2048", "--max-num-seqs", "16") as live:
        yield live.wait_ready()


@pytest.fixture(scope="session")
def program(demo: LiveServer) -> Program:
    """Runs a program of ``programs/`` with the server's URL; what it found out is JSON on its last line."""

    def run(name: str) -> dict[str, Any]:
        command = [*_runner(name), str(PROGRAMS / name), demo.url]
        # A user's own settings, and proxies, are not what is tested.
        env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTHROPIC_", "PYTHON"))}
        env |= {"NODE_PATH": str(INSTALLED / "node_modules"), "NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def _runner(name: str) -> list[str]:
    if name.endswith(".cjs"):
        node = shutil.which("node")
        if node is None or not (INSTALLED / "node_modules" / "openai").is_dir():
            _missing("node and the npm package openai")
        return [str(node)]
    python = INSTALLED / "bin" / "python"
    if not python.exists():
        _missing("the Python clients")
    return [str(python)]


def _missing(what: str) -> None:
    if os.environ.get("HEADWAY_REQUIRE_CLIENTS"):
        pytest.fail(f"HEADWAY_REQUIRE_CLIENTS is set, but {what} are not installed; `make clients` does it")
    pytest.skip(f"{what} are not installed; `make clients` does it")
