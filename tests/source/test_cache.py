"""The one directory for what is kept."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest

from headway.server.errors import ModelSourceError
from headway.server.source.cache import cache_directory, keeping, locked, require_own
from headway.server.source.resolve import resolve_model


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_has_made_where_everybody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "shared" / "cache"
    (cache / "s3" / "bucket").mkdir(parents=True)
    os.chown(cache / "s3", 4711, 4711)
    require_own(cache / "s3" / "bucket")  # nobody but us could have made it
    for open_to_all in (cache, cache / "s3"):
        open_to_all.chmod(0o1777)
        os.chown(cache / "s3" / "bucket", 4711, 4711)
        with pytest.raises(ModelSourceError, match="belongs to user 4711, in a directory where everybody may write"):
            require_own(cache / "s3" / "bucket" / "not yet")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "is_mount", lambda path: True)
            require_own(cache / "s3" / "bucket")
        open_to_all.chmod(0o755)
    require_own(tmp_path / "nowhere" / "yet")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("kind", ["archives", "demo"])
def test_a_planted_model_is_not_served(kind: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / kind).mkdir(parents=True)
    cache.chmod(0o1777)
    os.chown(cache / kind, 4711, 4711)
    (tmp_path / "m.tar").write_bytes(b"")
    with pytest.raises(ModelSourceError, match=f"{kind} belongs to user 4711"):
        resolve_model({"archives": str(tmp_path / "m.tar"), "demo": "demo"}[kind], cache_dir=cache)


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
        assert waiting.wait(60)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
