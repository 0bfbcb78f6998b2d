"""Runs the real entrypoint in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import headway

NOWHERE = Path("/dev/null/nowhere")  # a directory that nobody can make: no model is found there
SOURCE = str(Path(headway.__file__).parents[1])  # this tree, whichever is installed


def run_entrypoint(*words: str, environ: Mapping[str, str], path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``environ`` is all that it gets, beside PATH and PYTHONPATH; ``path`` is a folder that Python imports from first."""
    return subprocess.run(
        [sys.executable, "-m", "headway.entrypoint", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{path}:{SOURCE}" if path else SOURCE, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
