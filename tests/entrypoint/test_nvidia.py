"""GPUs, driver and torch of pretended hosts; the driver's library is a real shared object where a C compiler is at hand."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from host_files import add_gpus, add_torch, write

from headway.entrypoint.nvidia import Gpus, TorchBuild, read_gpus, read_torch


@pytest.fixture
def driver_library(tmp_path: Path) -> Callable[[str], Callable[[str], ctypes.CDLL]]:
    """Makes a loader that gives a library with the C code in it, whatever name is asked for."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def make(code: str) -> Callable[[str], ctypes.CDLL]:
        source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
        source.write_text(code)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return lambda name: ctypes.CDLL(str(tmp_path / name))

    return make


def test_no_gpu_loads_nothing(tmp_path: Path) -> None:
    def load(name: str) -> None:
        raise AssertionError("loaded the driver without a GPU")

    assert read_gpus(tmp_path, None, load) == Gpus(0)
    # The toolkit's control nodes alone are no GPU.
    write(tmp_path, **{"dev/nvidiactl": "", "dev/nvidia-uvm": ""})
    assert read_gpus(tmp_path, None, load) == Gpus(0)


@pytest.mark.parametrize("open_module", [False, True])
def test_gpus_driver_and_cuda(open_module: bool, tmp_path: Path, driver_library: Callable[[str], Callable[[str], ctypes.CDLL]]) -> None:
    add_gpus(tmp_path, ["NVIDIA A10G", "NVIDIA A10G"], "580.65.06", open_module)
    load = driver_library("int cuDriverGetVersion(int *version) { *version = 13000; return 0; }")
    assert read_gpus(tmp_path, None, load) == Gpus(2, ("NVIDIA A10G", "NVIDIA A10G"), "580.65.06", (13, 0))
    assert read_gpus(tmp_path, "0,1", load).hidden_by is None
    assert read_gpus(tmp_path, "", load).hidden_by == read_gpus(tmp_path, "-1", load).hidden_by == "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("int cuDriverGetVersion(int *version) { return 999; }", "cuDriverGetVersion gave error 999"),
        ("int something_else;", "cuDriverGetVersion"),
    ],
)
def test_a_broken_library_is_told(
    code: str, problem: str, tmp_path: Path, driver_library: Callable[[str], Callable[[str], ctypes.CDLL]]
) -> None:
    gpus = read_gpus(add_gpus(tmp_path, ["NVIDIA L4"]), None, driver_library(code))
    assert gpus.cuda is None
    assert problem in (gpus.library_problem or "")


def test_a_missing_library_is_told(tmp_path: Path) -> None:
    gpus = read_gpus(add_gpus(tmp_path, ["NVIDIA L4"]), None, lambda name: ctypes.CDLL(str(tmp_path / name)))
    assert (gpus.num_devices, gpus.driver, gpus.cuda) == (1, "535.183.01", None)
    assert "libcuda.so.1" in (gpus.library_problem or "")


@pytest.mark.parametrize(
    ("version", "cuda", "found"),
    [("2.13.0+cu130", "13.0", (13, 0)), ("2.11.0", "12.8", (12, 8)), ("2.13.0+cpu", None, None)],
)
def test_torch_as_text(version: str, cuda: str | None, found: tuple[int, int] | None, tmp_path: Path) -> None:
    entry = add_torch(tmp_path / "site-packages", version, cuda)
    assert read_torch([str(tmp_path / "none"), entry]) == TorchBuild(version, found)
    assert read_torch([str(tmp_path / "none")]) is None


def test_the_installed_torch_is_read_right() -> None:
    import torch

    cuda = torch.version.cuda
    major_minor = (int(cuda.split(".")[0]), int(cuda.split(".")[1])) if cuda else None
    assert read_torch(sys.path) == TorchBuild(torch.__version__, major_minor)
