"""What Ray, NCCL and our own sources take from the environment of a process: the only place of this room that reads or sets it."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import psutil

from headway.server.source.cache import cache_directory


def send_no_statistics() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def keep_to_loopback(token: str) -> None:
    """For a cluster of this host alone: its processes listen on 127.0.0.1, and take work from those only that have ``token``. Before Ray
    is imported."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what Ray does where it supports no second host
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token


def new_token() -> str:
    return secrets.token_hex(32)


def name_interface(address: str) -> None:
    """For NCCL, which else may pick one that the other hosts don't reach."""
    if interface := interface_of(address):
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")


def interface_of(address: str) -> str | None:
    found = psutil.net_if_addrs().items()
    return next((name for name, those in found if any(each.family == socket.AF_INET and each.address == address for each in those)), None)


def own_cache_directory() -> Path:
    return cache_directory(os.environ)


def started_here() -> str | None:
    """The address of the cluster that `ray start` began on this host, if it may be trusted: where Ray writes it down, every user may."""
    note = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    try:
        return note.read_text().strip() or None if note.stat().st_uid in (0, os.getuid()) else None
    except OSError:
        return None


def visible_index(gpu: str) -> int:
    """Among the GPUs that this process sees, of one that Ray names as the host counts them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",").index(gpu) if visible else int(gpu)
