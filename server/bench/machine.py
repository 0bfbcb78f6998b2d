"""What a machine is and who uses it: the difference between a measurement and a disturbed one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(slots=True, frozen=True)
class CpuUse:
    """Cores in use on average over a while: 0.5 is half of one core."""

    others: float  # neither the server nor this process
    server: float
    stolen: float  # by the hypervisor


class CpuMeter:
    """Tells a server's CPU (and this process's) from everybody else's, from construction on. Linux."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._started = time.perf_counter()
        self._busy, self._stolen = _machine_seconds()
        self._server, self._own = tree_cpu_s(server_pid), _process_cpu_s(os.getpid())

    def read(self) -> CpuUse:
        busy, stolen = _machine_seconds()
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        server = tree_cpu_s(self._server_pid) - self._server
        others = busy - self._busy - server - (_process_cpu_s(os.getpid()) - self._own)
        return CpuUse(max(0.0, others) / elapsed, server / elapsed, (stolen - self._stolen) / elapsed)


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; empty if it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_cpu_s(pid: int) -> float:
    return sum(_process_cpu_s(process.pid) for process in process_tree(pid))


def tree_rss_bytes(pid: int) -> int:
    total = 0
    for process in process_tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def describe_machine() -> dict[str, str | int]:
    """Chip, cores, memory and accelerators, in words for a report."""
    found: dict[str, str | int] = {
        "chip": _chip_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    tool = shutil.which("nvidia-smi")
    if tool:
        asked = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            found["gpus"] = ", ".join(asked.stdout.split("\n")).strip(", ")
    return found


def _chip_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _machine_seconds() -> tuple[float, float]:
    """(busy, stolen) seconds of all cores since boot."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
    return busy, getattr(times, "steal", 0.0)


def _process_cpu_s(pid: int) -> float:
    """A process's own seconds and those of the children that it has already waited for."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0))
