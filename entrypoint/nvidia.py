"""What the host says of its NVIDIA GPUs and their driver, and what the installed torch was built for; nothing is initialised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

Version = tuple[int, int]  # of CUDA: (12, 4)

# "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", or without "Open" and "for x86_64".
_DRIVER = r"Kernel Module\b[^\n]*?\s(\d{3,}(?:\.\d+)+)\s"
_MODEL = r"(?m)^Model:\s*(.+?)\s*$"


class Gpus(NamedTuple):
    """``cuda`` is the highest CUDA version that the driver's library supports; None where that library can't be loaded, and
    ``library_problem`` says why. ``hidden_by`` names the variable that hides the GPUs from CUDA."""

    num_devices: int
    names: tuple[str, ...] = ()
    driver: str | None = None
    cuda: Version | None = None
    library_problem: str | None = None
    hidden_by: str | None = None


class TorchBuild(NamedTuple):
    """``cuda`` is None in a build for CPUs."""

    version: str
    cuda: Version | None


def read_gpus(root: Path, cuda_visible_devices: str | None, load: Callable[[str], Any] | None = None) -> Gpus:
    """GPUs below ``root``/dev. Without any this is two directory reads; with one the driver's library is loaded too, not started:
    starting it (NVML, cuInit) can take seconds. ``load`` is ctypes.CDLL."""
    devices = [node for node in _entries(root / "dev") if node.name.startswith("nvidia") and node.name[6:].isdigit()]
    if not devices:
        return Gpus(0)
    found = re.search(_DRIVER, _text(root / "proc/driver/nvidia/version"))
    models = [re.search(_MODEL, _text(gpu / "information")) for gpu in _entries(root / "proc/driver/nvidia/gpus")]
    cuda, problem = _supported_cuda(load)
    hides = cuda_visible_devices is not None and cuda_visible_devices.strip() in ("", "-1")
    return Gpus(
        num_devices=len(devices),
        names=tuple(model[1] for model in models if model),
        driver=found[1] if found else None,
        cuda=cuda,
        library_problem=problem,
        hidden_by="CUDA_VISIBLE_DEVICES" if hides else None,
    )


def read_torch(search_path: Iterable[str]) -> TorchBuild | None:
    """Out of torch/version.py as text; importing torch takes a second. None if torch is not installed."""
    for folder in search_path:
        text = _text(Path(folder) / "torch/version.py")
        if version := re.search(r"^__version__ = ['\"](.+)['\"]", text, re.MULTILINE):
            cuda = re.search(r"^cuda\b[^=\n]*= ['\"](\d+)\.(\d+)", text, re.MULTILINE)
            return TorchBuild(version[1], (int(cuda[1]), int(cuda[2])) if cuda else None)
    return None


def _supported_cuda(load: Callable[[str], Any] | None) -> tuple[Version | None, str | None]:
    """(CUDA version of the driver's library, why there is none). cuDriverGetVersion may be called before cuInit."""
    import ctypes

    try:
        library = (load or ctypes.CDLL)("libcuda.so.1")
        number = ctypes.c_int()
        status = library.cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError) as problem:
        return None, str(problem)
    if status != 0 or number.value <= 0:
        return None, f"cuDriverGetVersion gave error {status}"
    return (number.value // 1000, number.value % 1000 // 10), None


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
