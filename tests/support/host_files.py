"""The files of a pretended host, below a directory of a test: /dev, /proc and /sys as far as Headway reads them."""

from __future__ import annotations

from pathlib import Path

DRIVER_TEXT = """NVRM version: NVIDIA UNIX {kind}  {version}  {tail}
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""


def write(root: Path, **texts: str) -> Path:
    """Writes each text to the path below ``root`` that it is given for: write(root, **{"proc/meminfo": "..."})."""
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def add_gpus(root: Path, names: list[str], driver: str = "535.183.01", open_module: bool = False) -> Path:
    """GPUs with device nodes, a kernel module, and a page of information each."""
    kind, tail = (
        ("Open Kernel Module for x86_64", "Release Build") if open_module else ("x86_64 Kernel Module", "Sun May 12 19:39:15 UTC 2024")
    )
    write(
        root,
        **{
            "proc/driver/nvidia/version": DRIVER_TEXT.format(kind=kind, version=driver, tail=tail),
            "dev/nvidiactl": "",
            "dev/nvidia-uvm": "",
        },
    )
    for number, name in enumerate(names):
        page = f"Model: \t\t {name}\nIRQ:   \t\t 24\nBus Location: \t 0000:0{number}:00.0\nDevice Minor: \t {number}\n"
        write(root, **{f"dev/nvidia{number}": "", f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information": page})
    return root


def add_torch(folder: Path, version: str, cuda: str | None) -> str:
    """An installed torch, as far as its version file; returns the entry for sys.path."""
    text = f"from typing import Optional\n\n__all__ = ['__version__', 'cuda']\n__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n"
    write(folder, **{"torch/version.py": text})
    return str(folder)
