"""Which Ray cluster is joined, and what is told where there is none."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

import pytest

from headway.server.engine.executor.over_ray import environment
from headway.server.engine.executor.over_ray.cluster import joined_cluster
from headway.server.errors import ConfigError


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `ray start` writes the address down."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^--distributed-executor-backend ray needs the package `ray`, .* pip install 'headway\[ray\]'"):
        joined_cluster(None, 1)


def test_a_cluster_that_does_not_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"^--ray-address 127\.0\.0\.1:{port}: no Ray cluster answers there; start one"):
        joined_cluster(f"127.0.0.1:{port}", 1)
    with pytest.raises(ConfigError, match=r"^--ray-address head: no Ray cluster answers there"):
        joined_cluster("head", 1)


def test_auto_is_a_cluster_of_this_host(note: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--ray-address auto: no Ray cluster was started on this host"):
        joined_cluster("auto", 1)
    note.write_text("127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"^--ray-address auto: no Ray cluster answers there"):
        joined_cluster("auto", 1)


def test_a_note_of_another_user_is_not_followed(note: Path) -> None:
    note.write_text("10.0.0.9:6379\n")
    assert environment.started_here() == "10.0.0.9:6379"
    if os.getuid() == 0:
        os.chown(note, 12345, 12345)
        assert environment.started_here() is None


def test_the_gpu_of_rank_0_is_counted_among_those_that_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.visible_index("3") == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert environment.visible_index("3") == 1


def test_nccl_is_told_the_interface_unless_a_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.interface_of("127.0.0.1") == "lo"
    assert environment.interface_of("203.0.113.1") is None
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    environment.name_interface("127.0.0.1")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    environment.name_interface("127.0.0.1")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"
