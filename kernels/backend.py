"""Which implementation of an operation runs: Triton on CUDA, the CPU version where there is one, else the plain reference.

``HEADWAY_KERNELS=reference|triton|cpu`` overrides the choice, for tests and for finding out whether a kernel is at fault. It is
read here and nowhere else (the one exception to "only the entrypoint reads the environment"). An explicit choice that cannot
run is an error; only the automatic choice falls back.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType

OVERRIDE = "HEADWAY_KERNELS"
CHOICES = ("reference", "triton", "cpu")
_PACKAGES = {"reference": "headway.kernels.reference", "triton": "headway.kernels.gpu", "cpu": "headway.kernels.cpu"}


class KernelUnavailable(RuntimeError):
    """An implementation was asked for by name and cannot run here."""


def implementation(op: str, device_type: str) -> ModuleType:
    """The module that implements ``op`` (a file name in reference/, gpu/, cpu/) for tensors on ``device_type``.

    Raises KernelUnavailable if ``HEADWAY_KERNELS`` names an implementation that does not exist or cannot run here.
    """
    return _implementation(op, device_type, os.environ.get(OVERRIDE, ""))


def is_interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors. Fixed when a kernel's module is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes")


@functools.cache
def _implementation(op: str, device_type: str, override: str) -> ModuleType:
    if override:
        return _explicit(op, device_type, override)
    if device_type == "cuda" and _has_triton() and _exists("triton", op):
        return _load("triton", op)
    if device_type == "cpu" and _exists("cpu", op):
        return _load("cpu", op)
    return _load("reference", op)


def _explicit(op: str, device_type: str, override: str) -> ModuleType:
    if override not in CHOICES:
        raise KernelUnavailable(f"{OVERRIDE}={override!r} is not one of {', '.join(CHOICES)}")
    if not _exists(override, op):
        raise KernelUnavailable(f"{OVERRIDE}={override}: the operation {op!r} has no {override} implementation; unset {OVERRIDE}")
    if override == "triton" and not _has_triton():
        raise KernelUnavailable(f"{OVERRIDE}=triton: the package triton is not installed; install headway[cuda] or unset {OVERRIDE}")
    if override == "triton" and device_type != "cuda" and not is_interpreting():
        raise KernelUnavailable(f"{OVERRIDE}=triton: tensors are on {device_type}; use a CUDA device or set TRITON_INTERPRET=1")
    if override == "cpu" and device_type != "cpu":
        raise KernelUnavailable(f"{OVERRIDE}=cpu: tensors are on {device_type}; unset {OVERRIDE}")
    return _load(override, op)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _exists(choice: str, op: str) -> bool:
    return importlib.util.find_spec(f"{_PACKAGES[choice]}.{op}") is not None


def _load(choice: str, op: str) -> ModuleType:
    return importlib.import_module(f"{_PACKAGES[choice]}.{op}")
