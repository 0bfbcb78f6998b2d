"""Whether the host's GPU driver fits this image's CUDA, and what to choose where it does not."""

from __future__ import annotations

from typing import NamedTuple

from headway.entrypoint.nvidia import Gpus, TorchBuild, Version


class Ami(NamedTuple):
    """An InferenceAmiVersion of SageMaker: the host's image, with its driver branch and that driver's CUDA."""

    name: str
    driver: int
    cuda: Version


# InferenceAmiVersion of the API's ProductionVariant (botocore 1.44.5, read 2026-11-23), oldest first. An endpoint that names none
# gets the first. gpu-2-1 is gpu-2 without the mounting of CUDA's compatibility libraries, so it is never the better choice here.
AMIS = (
    Ami("al2-ami-sagemaker-inference-gpu-2", 535, (12, 2)),
    Ami("al2-ami-sagemaker-inference-gpu-3-1", 550, (12, 4)),
    Ami("al2023-ami-sagemaker-inference-gpu-4-1", 580, (13, 0)),
)
# The driver branch from which any CUDA of a major version runs (NVIDIA, CUDA Compatibility, "minor version compatibility", 2025).
_FIRST_DRIVER = {11: 450, 12: 525, 13: 580}


class Verdict(NamedTuple):
    """``problems``: the device that was asked for can't be had. ``warnings``: it goes on, otherwise than one may think."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def judge(device: str, gpus: Gpus, torch: TorchBuild | None) -> Verdict:
    """``device`` as in --device. A GPU that can't be used is a problem if it was asked for, else a warning."""
    if device == "cpu" or torch is None:
        return Verdict()
    if gpus.num_devices == 0:
        return Verdict((_no_gpu(),)) if device == "cuda" else Verdict()
    if obstacle := _obstacle(gpus, torch):
        if device == "cuda":
            return Verdict((f"--device cuda: {obstacle}",))
        return Verdict(warnings=(f"there is a GPU, but it is not used and the CPU computes: {obstacle}",))
    assert gpus.cuda is not None
    assert torch.cuda is not None
    return Verdict() if gpus.cuda >= torch.cuda else Verdict(warnings=(_minor(gpus.cuda, torch.cuda),))


def ami_for(cuda: Version) -> Ami | None:
    """The oldest whose driver has this CUDA or, where there is none, the same major version."""
    fitting = [ami for ami in AMIS if ami.cuda >= cuda] or [ami for ami in AMIS if ami.cuda[0] == cuda[0]]
    return fitting[0] if fitting else None


def shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _no_gpu() -> str:
    return (
        "--device cuda: there is no GPU here (no /dev/nvidia0): start the container with `--gpus all`, on SageMaker choose an instance "
        "type with GPUs (ml.g5, ml.g6, ml.p4d and so on), or leave --device out to compute on the CPU"
    )


def _obstacle(gpus: Gpus, torch: TorchBuild) -> str | None:
    """Why the GPUs can't be used, with what to do; None where they can."""
    if torch.cuda is None:
        return f"this image's torch ({torch.version}) is built for CPUs: use the CUDA variant of the image"
    if gpus.hidden_by:
        return f"{gpus.hidden_by} hides every GPU: unset it"
    if gpus.cuda is None:
        return (
            f"the driver's library libcuda.so.1 can't be used ({gpus.library_problem}): start the container with `--gpus all` and the "
            "NVIDIA container toolkit, and with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    if gpus.cuda[0] < torch.cuda[0]:
        return f"the host's driver {_driver(gpus)} is too old for CUDA {shown(torch.cuda)}, which this image needs: {_advice(torch.cuda)}"
    return None


def _minor(supported: Version, needed: Version) -> str:
    return (
        f"the host's driver supports CUDA {shown(supported)} and this image is built for {shown(needed)}: that runs, but code that the "
        f'driver has to compile fails with "unsupported toolchain"; if that comes, {_advice(needed)}'
    )


def _driver(gpus: Gpus) -> str:
    limit = f"CUDA up to {shown(gpus.cuda)}" if gpus.cuda else "CUDA unknown"
    return f"{gpus.driver} ({limit})" if gpus.driver else f"({limit})"


def _advice(needed: Version) -> str:
    driver = _FIRST_DRIVER.get(needed[0])
    elsewhere = f"install driver {driver} or newer" if driver else "install a newer driver"
    fitting = ami_for(needed)
    return f"on SageMaker choose InferenceAmiVersion {fitting.name}; elsewhere {elsewhere}" if fitting else elsewhere
