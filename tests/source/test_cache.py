"""The one directory for what is kept."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest

from headway.server.errors import ModelSourceError
from headway.server.source.cache import cache_directory, keeping, locked


def test_the_variable_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory({}) == Path("/home/me/.cache/headway")
    own = {"XDG_CACHE_HOME": "/own"}
    assert cache_directory(own) == cache_directory(own | {"HEADWAY_CACHE": " "}) == Path("/own/headway")
    assert cache_directory({"XDG_CACHE_HOME": "relative"}) == Path("/home/me/.cache/headway")
    assert cache_directory({"HEADWAY_CACHE": "/c"}) == Path("/c")
    assert cache_directory({"HEADWAY_CACHE": "c"}) == Path.cwd() / "c"


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run as some number."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert cache_directory({}) == tmp_path / "headway-4711"
    # One that somebody else made could hold anything.
    (tmp_path / "headway-4711").mkdir()
    assert cache_directory({}) != tmp_path / "headway-4711"
    assert cache_directory({}).parent == tmp_path


def test_a_disk_that_refuses() -> None:
    with tempfile.NamedTemporaryFile() as file, pytest.raises(ModelSourceError) as caught, keeping("It", Path(file.name) / "c"):
        pass
    assert str(caught.value) == (
        f"It cannot be kept in {file.name}/c: Not a directory; make it writable, or set HEADWAY_CACHE to a directory that is."
    )


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="No space left on device; free space there, or set HEADWAY_CACHE"), keeping("It", tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_who_waits_for_a_lock_says_so(tmp_path: Path) -> None:
    waiting = threading.Event()
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock", waiting.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "lock", lambda: order.append("never")):
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
