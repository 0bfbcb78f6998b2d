"""Use, memory, power and temperature of the GPUs, from the driver's library (NVML); nothing where there is none.

Every GPU that the container sees is shown: NVML knows no CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

# The driver answers in milliseconds; one that hangs must not hold up /metrics, which says so many other things.
TIMEOUT_S = 1.0

# (number, uuid) of each GPU -> name of the series -> value.
Readings = dict[tuple[str, str], dict[str, float]]

SERIES = {
    "gpu_utilization_ratio": "Part of the last moments in which a kernel ran, 0 to 1.",
    "gpu_memory_used_bytes": "Memory in use on the GPU, by whatever process.",
    "gpu_memory_total_bytes": "Memory of the GPU.",
    "gpu_power_watts": "Power that the GPU draws.",
    "gpu_temperature_celsius": "Temperature of the GPU.",
}


class GpuMetrics(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """``refresh`` before each scrape; ``read`` is called in a thread of its own, never twice at a time."""

    def __init__(self, read: Callable[[], Readings] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._read = read or Nvml().read
        self._timeout_s = timeout_s
        self._reading: asyncio.Future[Readings] | None = None
        self._readings: Readings = {}

    async def refresh(self) -> None:
        """Within the time-out; the series are left out of a scrape for which the driver was too slow."""
        reading = self._reading = self._reading or _in_thread(self._read)
        await asyncio.wait({reading}, timeout=self._timeout_s)
        if reading.done():
            self._reading = None
        self._readings = reading.result() if reading.done() else {}

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for name, text in SERIES.items():
            family = GaugeMetricFamily(f"headway:{name}", text, labels=["gpu", "uuid"])
            for labels, values in self._readings.items():
                if name in values:
                    family.add_metric(labels, values[name])
            if family.samples:
                yield family


def _in_thread(read: Callable[[], Readings]) -> asyncio.Future[Readings]:
    """A daemon's thread: one that never comes back must not keep the process from its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Readings] = loop.create_future()

    def run() -> None:
        readings: Readings = {}
        try:
            readings = read()
        except Exception:  # the thread's edge: /metrics has other things to say
            log.debug("The GPUs can't be read", exc_info=True)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(future.set_result, readings)

    threading.Thread(target=run, daemon=True, name="gpu-metrics").start()
    return future


class Nvml:
    """The driver's library through nvidia-ml-py. Looked for once: a GPU does not come later."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._is_absent = False

    def read(self) -> Readings:
        """Empty where there is no driver or no GPU."""
        if self._nvml is None and not self._is_absent:
            self._nvml = _load()
            self._is_absent = self._nvml is None
        return {} if self._is_absent else self._all()

    def _all(self) -> Readings:
        nvml = self._nvml
        found: Readings = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):  # a GPU that fell off the bus; the others are still there
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found[str(index), nvml.nvmlDeviceGetUUID(handle)] = self._values(handle)
        return found

    def _values(self, handle: Any) -> dict[str, float]:
        """What the GPU tells: a MIG slice has no utilisation, some have no power sensor."""
        nvml = self._nvml
        values: dict[str, float] = {}
        with suppress(nvml.NVMLError):
            values["gpu_utilization_ratio"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        with suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            values["gpu_memory_used_bytes"], values["gpu_memory_total_bytes"] = memory.used, memory.total
        with suppress(nvml.NVMLError):
            values["gpu_power_watts"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        with suppress(nvml.NVMLError):
            values["gpu_temperature_celsius"] = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        return values


def _load() -> Any:
    """The module, ready for use; None where the driver is missing."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
