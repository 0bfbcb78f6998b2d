"""Facts about the device that launchers choose by. Under the interpreter, where there is no GPU, fixed ones."""

from __future__ import annotations

import functools

import torch

INTERPRETED_MULTIPROCESSORS = 16  # any number will do
SMALLEST_SHARED_MEMORY_BYTES = 99 * 1024  # a program's, on sm_86 and sm_89 (A10G, L4, L40S)


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    """What programs are spread over."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def shared_memory_bytes(device: torch.device) -> int:
    """What a program may take."""
    if device.type != "cuda":
        return SMALLEST_SHARED_MEMORY_BYTES
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]  # the stub lacks it


@functools.cache
def has_fp8(device: torch.device) -> bool:
    """Whether Triton can load, convert and multiply e4m3 there: Ada, Hopper and later. The interpreter can."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


@functools.cache
def has_warpgroups(device: torch.device) -> bool:
    """Whether its matrix products are done by warpgroups, from shared memory: Hopper and the Blackwell of data centres."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)


@functools.cache
def chip(device: torch.device) -> str:
    """What tables of tuned tiles go by: "sm90_132", an architecture and its multiprocessors, is an H100 or an H200; "" when interpreting.

    So an H100 for PCIe, which has fewer, is told apart; chips that differ in memory alone share a table.
    """
    if device.type != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}_{num_multiprocessors(device)}"
