"""What a killed runtime leaves is removed by the next; a living one's is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from headway.container.local.work_directory import WorkDirectory

_KILLED = """
import os
from headway.container.local.work_directory import WorkDirectory
directory = WorkDirectory()
(directory.path / "model").write_text("weights")
print(directory.path, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def _grow_old(path: Path) -> None:
    os.utime(path, (1, 1))


def test_a_dead_runtimes_directory_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED], capture_output=True, text=True, timeout=120, check=False)
    dead = Path(done.stdout.strip())
    assert (dead / "model").exists(), done.stderr
    living = WorkDirectory()
    assert living.left == 0, "it may not be locked yet"
    _grow_old(dead)
    _grow_old(living.path)
    (tmp_path / "headway-local-notes").mkdir()  # somebody's, without a lock
    _grow_old(tmp_path / "headway-local-notes")
    next_one = WorkDirectory()
    assert next_one.left == 1
    assert not dead.exists()
    assert living.path.exists()
    assert (tmp_path / "headway-local-notes").exists()
    for directory in (living, next_one):
        directory.remove()
        assert not directory.path.exists()
