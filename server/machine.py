"""What this process may use of the machine: memory and cores, within the limits of its control group (v2 and v1) and its CPU affinity."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_ROOT = Path("/")
# v1 writes "no limit" as the largest multiple of a page.
_NO_LIMIT_V1 = 1 << 60
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 512 << 20


class MemoryLimit(NamedTuple):
    """Of the control group and those around it, the tightest."""

    limit_bytes: int
    available_bytes: int  # what may still be taken; page cache that the kernel gives back counts as free


def memory_limit(root: Path = _ROOT) -> MemoryLimit | None:
    """None where no control group limits the memory, or there is none to read."""
    found = []
    for directory in _directories("memory", root):
        for limit_name, used_name, cache_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(directory / limit_name), _number(directory / used_name)
            if limit is not None and used is not None and limit < _NO_LIMIT_V1:
                used -= _keyed_number(directory / "memory.stat", cache_key) or 0
                found.append(MemoryLimit(limit, max(limit - used, 0)))
    if not found:
        return None
    return MemoryLimit(min(group.limit_bytes for group in found), min(group.available_bytes for group in found))


def host_memory() -> tuple[int, int]:
    """(total, available) bytes of the host, or of the container where its limit is lower."""
    import psutil

    memory = psutil.virtual_memory()
    limit = memory_limit()
    if limit is None:
        return memory.total, memory.available
    return min(memory.total, limit.limit_bytes), min(memory.available, limit.available_bytes)


def zeroed_memory(num_bytes: int) -> mmap.mmap:
    """Zeros that the system maps where they are first written, in large pages if it has them: what is read from all over the place misses
    the translation cache less. (Decode of 4 rows at 1,000 tokens in the demo model: 13.7 ms a step with small pages, 9.2 with large ones;
    Zen 5, 2026-11.) It goes back to the system with the last view of it."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def trim_heap() -> None:
    """What the C library keeps of freed memory goes back to the system, where it is glibc: others have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """The C library keeps what is freed from now on, up to 512 MiB for each thread, in place of giving it back after each step to ask for
    it again in the next, where it is glibc. (8 requests at a time to the demo model, 2 cores: 12,000 page faults a second before, 50 after;
    the first answers of a server came 1.2 times as fast, later ones 1.0 to 1.05; 2026-11.)"""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        # Older ones take no more than 32 MiB for blocks that are not mapped by themselves.
        if not set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES):
            set_option(_M_MMAP_THRESHOLD, 32 << 20)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def num_oom_kills(root: Path = _ROOT) -> int:
    """How many processes of this control group the kernel has killed for memory; 0 where that can't be told."""
    for directory in _directories("memory", root):
        for name in ("memory.events", "memory.oom_control"):
            if (kills := _keyed_number(directory / name, "oom_kill")) is not None:
                return kills
    return 0


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Cores' worth of time that the control groups allow (`docker run --cpus`), or None."""
    quotas = []
    for directory in _directories("cpu", root):
        words = _text(directory / "cpu.max").split()
        if not words:
            words = [_text(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def usable_cores(root: Path = _ROOT) -> int:
    """Threads that can compute at the same time here, 1 at least: bound by affinity (`--cpuset-cpus`) and quota (`--cpus`)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _directories(controller: str, root: Path) -> Iterator[Path]:
    """The directories of this process's control group and of those around it, innermost first.

    In a container the path in /proc/self/cgroup may be the host's, which is not there: then only the mount itself is left, which is
    the container's own group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            bases = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            bases = [mount / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:  # outside of what this namespace shows
            parts = []
        for base in bases:
            for depth in range(len(parts), -1, -1):
                if (directory := base.joinpath(*parts[:depth])).is_dir():
                    yield directory


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # else "max", or no such file


def _keyed_number(path: Path, key: str) -> int | None:
    """The number behind ``key`` in a file of lines such as `oom_kill 3`."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return None
