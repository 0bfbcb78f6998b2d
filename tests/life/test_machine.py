"""Control groups of both versions, in files as the kernel writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from host_files import write

from headway.server.machine import MemoryLimit, cpu_quota, memory_limit, num_oom_kills, usable_cores, zeroed_memory

GIB = 1 << 30
NO_LIMIT_V1 = str(9223372036854771712)


def group(path: str, limit: str, used: int, cache: int = 0) -> dict[str, str]:
    stat = f"anon 5\ninactive_file {cache}\nactive_file 7\n"
    return {f"{path}/memory.max": f"{limit}\n", f"{path}/memory.current": f"{used}\n", f"{path}/memory.stat": stat}


def group_v1(path: str, limit: str, used: int, cache: int = 0) -> dict[str, str]:
    stat = f"cache 9\ninactive_file 1\ntotal_inactive_file {cache}\n"
    return {f"{path}/memory.limit_in_bytes": limit, f"{path}/memory.usage_in_bytes": str(used), f"{path}/memory.stat": stat}


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path, **{"proc/self/cgroup": "0::/\n"}, **group("sys/fs/cgroup", str(4 * GIB), 3 * GIB, cache=2 * GIB))
    assert memory_limit(tmp_path) == MemoryLimit(4 * GIB, 3 * GIB)


def test_page_cache_is_no_use_of_memory_that_is_lost(tmp_path: Path) -> None:
    """A model file that was just read fills the group with page cache, which the kernel gives back."""
    write(tmp_path, **{"proc/self/cgroup": "0::/\n"}, **group("sys/fs/cgroup", str(GIB), GIB, cache=GIB // 2))
    assert memory_limit(tmp_path) == MemoryLimit(GIB, GIB // 2)


def test_the_tightest_group_around_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{"proc/self/cgroup": "0::/system.slice/headway.service\n"},
        **group("sys/fs/cgroup/system.slice", str(2 * GIB), GIB),
        **group("sys/fs/cgroup/system.slice/headway.service", "max", GIB),
    )
    assert memory_limit(tmp_path) == MemoryLimit(2 * GIB, GIB)


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_version_1_with_the_host_s_path_or_its_own(path: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        **{"proc/self/cgroup": f"5:memory:{path}\n1:cpu,cpuacct:{path}\n0::/\n"},
        **group_v1("sys/fs/cgroup/memory", str(GIB), GIB // 2, cache=GIB // 4),
        **{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
    )
    assert memory_limit(tmp_path) == MemoryLimit(GIB, 3 * GIB // 4)
    assert cpu_quota(tmp_path) == 1.5
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", "max", GIB)},
        {"proc/self/cgroup": "3:memory:/\n", **group_v1("sys/fs/cgroup/memory", NO_LIMIT_V1, GIB)},
        {"proc/self/cgroup": "garbage\n0::/../..\n", "sys/fs/cgroup/memory.max": "x"},
    ],
)
def test_no_limit(files: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, **files)
    assert memory_limit(tmp_path) is None
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_path_never_leads_out_of_the_mount(tmp_path: Path) -> None:
    write(tmp_path, **{"proc/self/cgroup": "0::/../../secret\n", **group("sys/secret", "1", 0), **group("sys/fs/cgroup", str(GIB), 0)})
    assert memory_limit(tmp_path) == MemoryLimit(GIB, GIB)


@pytest.mark.parametrize(("text", "quota"), [("200000 100000\n", 2.0), ("max 100000\n", None), ("50000 100000\n", 0.5), ("\n", None)])
def test_quota(text: str, quota: float | None, tmp_path: Path) -> None:
    write(tmp_path, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text})
    assert cpu_quota(tmp_path) == quota
    assert usable_cores(tmp_path) >= 1


def test_oom_kills_are_counted(tmp_path: Path) -> None:
    assert num_oom_kills(tmp_path) == 0
    write(tmp_path, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": "low 0\noom 2\noom_kill 3\noom_group_kill 0\n"})
    assert num_oom_kills(tmp_path) == 3


def test_zeroed_memory_is_taken_as_it_is_written_and_given_back() -> None:
    num_bytes = 1 << 30
    before = psutil.Process().memory_info().rss
    memory = zeroed_memory(num_bytes)
    view = memoryview(memory)
    assert bytes(view[:3]) == bytes(3)
    view[num_bytes // 2 : num_bytes // 2 + 4] = b"here"
    assert bytes(view[num_bytes // 2 : num_bytes // 2 + 5]) == b"here\0"
    assert psutil.Process().memory_info().rss - before < num_bytes // 16
    view.release()
    memory.close()


CHURN = """
import ctypes, resource
from headway.server.machine import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def num_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = libc.malloc(24 << 20)
    ctypes.memset(memory, 1, 24 << 20)
    libc.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(hasattr(libc, "mallopt"), num_faults())
keep_freed_memory()
print(num_faults(), num_faults(), num_faults())
"""


def test_freed_memory_is_kept() -> None:
    """In large pages 24 MiB are 12 faults, in small ones 6,144. The first block is freed before the option is set."""
    out = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, check=True, timeout=120).stdout
    (has_option, *before), after = (line.split() for line in out.splitlines())
    if has_option == "True":
        assert int(before[0]) >= 12
        assert [int(count) < 5 for count in after[1:]] == [True, True]
