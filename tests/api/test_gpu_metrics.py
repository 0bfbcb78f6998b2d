"""GPUs in /metrics: read from a library that pretends to be the driver's, left out where there is none or where it hangs."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from headway.server.api.gpu_metrics import GpuMetrics, Readings

SOURCE = Path(__file__).resolve().parents[1] / "support" / "pretend_nvml.c"
SCRAPE_TWICE = """
import asyncio, logging, sys
from prometheus_client import CollectorRegistry, generate_latest
from headway.server.api.gpu_metrics import GpuMetrics

async def scrape():
    gpus, registry = GpuMetrics(timeout_s=10), CollectorRegistry()
    registry.register(gpus)
    for _ in range(2):
        await gpus.refresh()
        sys.stdout.write(generate_latest(registry).decode())

logging.basicConfig(level=logging.DEBUG)
asyncio.run(scrape())
"""


def scraped_with(library_path: Path) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library_path)}
    done = subprocess.run([sys.executable, "-c", SCRAPE_TWICE], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, re.sub(".*Using selector.*\n", "", done.stderr)) == (0, "")
    first, second = done.stdout[: len(done.stdout) // 2], done.stdout[len(done.stdout) // 2 :]
    assert first == second
    return first


def test_gpus_are_read_from_the_driver(tmp_path: Path) -> None:
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(tmp_path / "libnvidia-ml.so.1"), str(SOURCE)], check=True)
    text = scraped_with(tmp_path)
    assert {line for line in text.splitlines() if not line.startswith("#")} == {
        'headway:gpu_utilization_ratio{gpu="0",uuid="GPU-a"} 0.87',
        'headway:gpu_memory_used_bytes{gpu="0",uuid="GPU-a"} 7.2e+10',
        'headway:gpu_memory_used_bytes{gpu="1",uuid="GPU-b"} 1e+09',
        'headway:gpu_memory_total_bytes{gpu="0",uuid="GPU-a"} 8e+10',
        'headway:gpu_memory_total_bytes{gpu="1",uuid="GPU-b"} 8e+10',
        'headway:gpu_power_watts{gpu="0",uuid="GPU-a"} 512.5',
        'headway:gpu_temperature_celsius{gpu="0",uuid="GPU-a"} 61.0',
    }


def test_without_a_driver_there_is_neither_a_series_nor_a_word(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    assert scraped_with(tmp_path) == ""


def scraped(gpus: GpuMetrics) -> str:
    registry = CollectorRegistry()
    registry.register(gpus)
    text: bytes = generate_latest(registry)
    return text.decode()


def test_a_driver_that_hangs_does_not_hold_up_the_scrape() -> None:
    is_called, answer, num_calls = threading.Event(), threading.Event(), 0

    def read() -> Readings:
        nonlocal num_calls
        num_calls += 1
        is_called.set()
        answer.wait(timeout=60)
        return {("0", "GPU-a"): {"gpu_utilization_ratio": 0.5}}

    async def scrape() -> None:
        gpus = GpuMetrics(read, timeout_s=0.05)
        for _ in range(3):
            await asyncio.wait_for(gpus.refresh(), timeout=60)
            assert scraped(gpus) == ""
        assert is_called.wait(60)
        assert num_calls == 1, "threads pile up behind a hanging driver"
        answer.set()
        while "0.5" not in scraped(gpus):
            await gpus.refresh()
        await asyncio.gather(gpus.refresh(), gpus.refresh())
        assert "0.5" in scraped(gpus)

    asyncio.run(scrape())


def test_whatever_breaks_the_reading_leaves_the_scrape_alone() -> None:
    def read() -> Readings:
        raise OSError("the library is for another machine")

    async def scrape() -> str:
        gpus = GpuMetrics(read)
        await asyncio.wait_for(gpus.refresh(), timeout=60)
        return scraped(gpus)

    assert asyncio.run(scrape()) == ""
