"""What this container runs on, read without torch in a few milliseconds: for the banner and for faults that can be told early."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from headway.entrypoint.nvidia import Gpus, TorchBuild, read_gpus, read_torch
from headway.server.machine import memory_limit, usable_cores
from headway.server.source.cache import cache_directory
from headway.server.source.space import existing, free_bytes


class Place(NamedTuple):
    """A directory, which need not exist yet: ``is_writable`` and ``free_bytes`` are those of the nearest one that does."""

    path: Path
    is_writable: bool
    free_bytes: int


class Platform(NamedTuple):
    """``shm_bytes`` is the size of /dev/shm, None where there is none."""

    gpus: Gpus
    torch: TorchBuild | None
    cpu_name: str
    num_cores: int  # that this container may use
    num_host_cores: int
    memory_bytes: int  # that this container may use
    host_memory_bytes: int
    shm_bytes: int | None
    cache: Place
    uid: int
    gid: int
    is_root_read_only: bool


def read_platform(environ: Mapping[str, str], root: Path = Path("/"), search_path: Sequence[str] | None = None) -> Platform:
    """Everything below ``root``, in tests another one than the machine's; ``search_path`` is sys.path."""
    host_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(root)
    shm = root / "dev/shm"
    return Platform(
        gpus=read_gpus(root, environ.get("CUDA_VISIBLE_DEVICES")),
        torch=read_torch(sys.path if search_path is None else search_path),
        cpu_name=_cpu_name(root / "proc/cpuinfo"),
        num_cores=usable_cores(root),
        num_host_cores=os.cpu_count() or 1,
        memory_bytes=min(host_memory, limit.limit_bytes) if limit else host_memory,
        host_memory_bytes=host_memory,
        shm_bytes=_size(shm) if shm.is_dir() else None,
        cache=place(cache_directory(environ)),
        uid=os.getuid(),
        gid=os.getgid(),
        is_root_read_only=bool(os.statvfs(root).f_flag & os.ST_RDONLY),
    )


def place(path: Path) -> Place:
    """``path`` as it would be used: made where it is missing."""
    nearest = existing(path)
    return Place(path, nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK), free_bytes(nearest))


def _size(path: Path) -> int:
    state = os.statvfs(path)
    return state.f_blocks * state.f_frsize


def _cpu_name(cpuinfo: Path) -> str:
    """Of the first core; the whole file takes milliseconds on a large host. ARM names no model there."""
    try:
        with cpuinfo.open(errors="replace") as file:
            head = file.read(4096)
    except OSError:
        head = ""
    names = [line.partition(":")[2].strip() for line in head.splitlines() if line.startswith("model name")]
    return names[0] if names else os.uname().machine
