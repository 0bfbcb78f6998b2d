"""Whether driver, CUDA and the device asked for fit together, and what is said where they don't."""

from __future__ import annotations

import pytest

from headway.entrypoint.drivers import judge
from headway.entrypoint.nvidia import Gpus, TorchBuild, Version

CPU = TorchBuild("2.13.0+cpu", None)
CU13 = TorchBuild("2.13.0+cu130", (13, 0))
CU128 = TorchBuild("2.11.0+cu128", (12, 8))


def gpu(cuda: Version | None = (13, 0), driver: str | None = "580.65.06", hidden_by: str | None = None) -> Gpus:
    return Gpus(1, ("NVIDIA A10G",), driver, cuda, None if cuda else "libcuda.so.1: cannot open shared object file", hidden_by)


@pytest.mark.parametrize(
    ("device", "gpus", "torch"),
    [
        ("cpu", gpu((12, 2)), CU13),
        ("cpu", Gpus(0), CU13),
        ("auto", Gpus(0), CU13),
        ("auto", Gpus(0), CPU),
        ("auto", gpu(), CU13),
        ("cuda", gpu(), CU13),
        ("cuda", gpu((13, 0)), CU128),  # a newer driver runs older CUDA
        ("cuda", gpu(), None),  # torch is missing: the import says so
    ],
)
def test_nothing_to_say(device: str, gpus: Gpus, torch: TorchBuild | None) -> None:
    verdict = judge(device, gpus, torch)
    assert (verdict.problems, verdict.warnings) == ((), ())


@pytest.mark.parametrize(
    ("gpus", "torch", "parts"),
    [
        (
            gpu((12, 2), "535.183.01"),
            CU13,
            [
                "535.183.01 (CUDA up to 12.2)",
                "too old for CUDA 13.0",
                "al2023-ami-sagemaker-inference-gpu-4-1",
                "install driver 580 or newer",
            ],
        ),
        (gpu((11, 4), "470.1"), CU128, ["too old for CUDA 12.8", "al2023-ami-sagemaker-inference-gpu-4-1", "install driver 525 or newer"]),
        (gpu((11, 4), "470.1"), TorchBuild("2.11", (12, 4)), ["al2-ami-sagemaker-inference-gpu-3-1"]),
        (gpu((13, 0)), TorchBuild("3.0", (14, 0)), ["install a newer driver"]),
        (gpu(None), CU13, ["libcuda.so.1: cannot open", "--gpus all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]),
        (gpu(), CPU, ["2.13.0+cpu", "is built for CPUs", "CUDA variant"]),
        (gpu(hidden_by="CUDA_VISIBLE_DEVICES"), CU13, ["CUDA_VISIBLE_DEVICES hides every GPU"]),
    ],
)
def test_fatal_if_asked_for_and_a_warning_else(gpus: Gpus, torch: TorchBuild, parts: list[str]) -> None:
    asked, auto = judge("cuda", gpus, torch), judge("auto", gpus, torch)
    assert (len(asked.problems), len(asked.warnings), len(auto.problems), len(auto.warnings)) == (1, 0, 0, 1)
    assert asked.problems[0].startswith("--device cuda: ")
    assert auto.warnings[0].startswith("there is a GPU, but it is not used and the CPU computes: ")
    for sentence in (asked.problems[0], auto.warnings[0]):
        assert all(part in sentence for part in parts), sentence
        assert "\n" not in sentence


def test_no_gpu_is_fatal_only_if_asked_for() -> None:
    (problem,) = judge("cuda", Gpus(0), CU13).problems
    assert "there is no GPU here" in problem
    assert "--gpus all" in problem


def test_an_older_minor_version_runs_with_a_warning() -> None:
    verdict = judge("cuda", gpu((12, 2)), CU128)
    assert verdict.problems == ()
    assert "supports CUDA 12.2" in verdict.warnings[0]
    assert "al2023-ami-sagemaker-inference-gpu-4-1" in verdict.warnings[0]
