"""Where compiled kernels are kept: what lies there is run, so nobody else may put anything there."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from headway.server.config.attention import AttentionConfig
from headway.server.kernel_cache import kernel_cache
from headway.server.launch import _keep_compiled_kernels


@pytest.fixture
def private(tmp_path: Path) -> Path:
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    return directory


def test_compiled_kernels_are_kept_with_the_other_caches(tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", "to be put back")
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "to be put back")
    del os.environ["TRITON_CACHE_DIR"], os.environ["TRITON_CACHE_MANAGER"]
    _keep_compiled_kernels(tmp_path, private, AttentionConfig())
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "triton")
    module, name = os.environ["TRITON_CACHE_MANAGER"].split(":")
    assert hasattr(importlib.import_module(module), name)


def test_a_users_own_choice_stays(tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "theirs:Cache")
    _keep_compiled_kernels(tmp_path, private, AttentionConfig())
    assert (os.environ["TRITON_CACHE_DIR"], os.environ["TRITON_CACHE_MANAGER"]) == ("/elsewhere", "theirs:Cache")
    assert not (tmp_path / "triton").exists()


def test_flashinfer_keeps_what_it_compiles_there_too(tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it takes the home directory, which an image's user may not have."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "theirs:Cache")
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", "to be put back")
    _keep_compiled_kernels(tmp_path, private, AttentionConfig(attention_backend="FLASHINFER"))
    assert os.environ["FLASHINFER_WORKSPACE_BASE"] == "to be put back"
    del os.environ["FLASHINFER_WORKSPACE_BASE"]
    _keep_compiled_kernels(tmp_path, private, AttentionConfig(attention_backend="FLASHINFER"))
    assert os.environ["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path / "triton" / "flashinfer")
    assert os.environ["TRITON_CACHE_DIR"] == "/elsewhere"


def test_it_is_made_for_this_user_alone(tmp_path: Path, private: Path) -> None:
    before = os.umask(0)
    try:
        directory = kernel_cache(tmp_path / "cache", private)
    finally:
        os.umask(before)
    assert directory == tmp_path / "cache" / "triton"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert list(directory.iterdir()) == []
    assert kernel_cache(tmp_path / "cache", private) == directory, "the next start finds it"


def test_where_everybody_may_write_nothing_is_taken(tmp_path: Path, private: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton").chmod(0o1777)
    assert kernel_cache(tmp_path, private) == private / "triton"
    assert f"others may write to {tmp_path / 'triton'}, and what is there is run" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_has_made_is_not_taken(tmp_path: Path, private: Path, caplog: pytest.LogCaptureFixture) -> None:
    planted = tmp_path / "shared" / "headway" / "triton"
    planted.mkdir(parents=True)
    os.chown(planted, 4711, 4711)
    assert kernel_cache(planted.parent, private) == private / "triton"

    os.chown(planted, 0, 0)
    os.chown(planted.parent, 4711, 4711)
    planted.parent.parent.chmod(0o1777)
    assert kernel_cache(planted.parent, private) == private / "triton"
    assert "belongs to user 4711, in a directory where everybody may write" in caplog.text


def test_a_cache_that_cannot_be_written_does_not_end_the_start(tmp_path: Path, private: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file")
    assert kernel_cache(tmp_path / "cache", private) == private / "triton"
    assert "can't be written (Not a directory); set HEADWAY_CACHE" in caplog.text


def test_a_full_disk_does_not_end_the_start(private: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> object:  # the name of tempfile's argument
        return open("/dev/full", "wb")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert kernel_cache(private / "cache", private) == private / "triton"
    assert "can't be written (No space left on device)" in caplog.text


def test_a_mount_from_which_nothing_is_run_is_named(
    tmp_path: Path, private: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker's --tmpfs without options: Triton's launchers are libraries."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert kernel_cache(tmp_path, private) == private / "triton"
    assert "mounted noexec" in caplog.text
