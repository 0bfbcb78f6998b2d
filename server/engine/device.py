"""Which device to run on, and what it offers."""

from __future__ import annotations

import logging
import platform

import torch

from headway.kernels.cpu.native.library import function
from headway.kernels.kernel_tally import TALLY, KernelTally
from headway.server.config.data_parallel import gpus_missing
from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import DeviceFacts
from headway.server.errors import ConfigError
from headway.server.garbage import collect_spared
from headway.server.machine import host_memory, trim_heap
from headway.server.words import plural

log = logging.getLogger(__name__)


def choose_device(asked: str, index: int = 0) -> torch.device:
    """``auto`` takes a GPU if there is one, that of ``index``; an explicit choice that can't be had is a ConfigError."""
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        build = "has no CUDA" if torch.version.cuda is None else "sees no GPU"
        raise ConfigError(
            [f"--device cuda: this torch ({torch.__version__}) {build}; install the CUDA build and a driver, or use --device cpu"]
        )
    return torch.device("cuda", index) if has_gpu and asked != "cpu" else torch.device("cpu")


def check_gpus(device: torch.device, num_engines: int, parallel: ParallelConfig) -> None:
    """Raises ConfigError where several engines take more GPUs than there are. (One engine: see check_split, check_stages.)"""
    if device.type == "cuda" and num_engines > 1 and num_engines * parallel.num_ranks > (num_there := torch.cuda.device_count()):
        raise ConfigError([gpus_missing(num_engines, parallel, plural(num_there, "GPU") + " can be seen here")])


def occupy(device: torch.device) -> None:
    """What this process launches without naming a device goes to this one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def num_devices(device: torch.device, num_engines: int) -> int | None:
    """GPUs that each engine can have; None on a CPU, which ranks share."""
    return torch.cuda.device_count() // num_engines if device.type == "cuda" else None


def share_threads(num_engines: int) -> None:
    """On a CPU, where the engines of a server would else each start a thread for every core, and all would wait for each other."""
    if num_engines > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // num_engines))


def device_facts(device: torch.device) -> DeviceFacts:
    """Measured now: ``free_bytes`` changes as weights are loaded."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = f"{device} {torch.cuda.get_device_name(device)}"
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return DeviceFacts("cuda", name, total, free, has_fast_bf16=has_bf16, has_fast_int8=False)
    total, available = host_memory()
    capabilities = torch.cpu.get_capabilities()
    # torch's 8-bit products need AVX2 at least; bf16 ones without native instructions are slower than fp32.
    fast_bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    name = f"cpu ({capabilities.get('cpu_name') or platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"
    has_avx2 = bool(capabilities.get("avx2"))
    compiled = has_avx2 and function("grouped_linear", torch.float32) is not None
    return DeviceFacts("cpu", name, total, available, fast_bf16, has_fast_int8=has_avx2, multiplies_gguf=compiled)


def tell_kernels() -> None:
    """Once all that a start needs are there. Nothing where none was looked for: on a CPU, or with a cache of the user's own."""
    if KernelTally() != TALLY:
        log.info("Compiled kernels: %s", TALLY)


def give_back_memory(device: torch.device) -> None:
    """What torch and the C library keep of freed memory goes back to the device, or to the system."""
    collect_spared()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    # glibc keeps what lies between blocks in use: of the demo model in fp32, asleep at level 2, 423 of 702 MiB (2026-11).
    trim_heap()
