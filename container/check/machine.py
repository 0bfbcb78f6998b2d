"""What an instance type would offer the engine, as the engine would measure it there."""

from __future__ import annotations

from headway.container.instances import Instance
from headway.server.config.plan import DeviceFacts
from headway.server.errors import ConfigError
from headway.server.words import GIB

# Of a GPU: the driver's own share of what it reports, the CUDA context with the libraries' kernels, and workspaces of the products.
# An estimate, not measured on these GPUs.
_CUDA_BYTES = GIB
# Of a host: what the kernel keeps of the instance's memory, its services, and our processes, which take 0.33 GiB without the weights
# (the demo model, 2026-11).
_KERNEL_SHARE = 0.03
_PROCESSES_BYTES = int(1.5 * GIB)
# Older GPUs are left out by CUDA 13, which the image's torch is built for.
_OLDEST_CAPABILITY = (7, 5)


def reserved_bytes(instance: Instance, *, on_gpu: bool) -> int:
    """What of the device's memory is not the engine's to plan with. Estimated."""
    return _CUDA_BYTES if on_gpu else int(instance.memory_bytes * _KERNEL_SHARE) + _PROCESSES_BYTES


def runs_on_gpu(instance: Instance, asked: str) -> bool:
    """``asked``: --device. Raises ConfigError for a GPU that the instance has not, or that is too old."""
    if asked == "cpu" or (asked == "auto" and instance.gpu is None):
        return False
    if instance.gpu is None:
        raise ConfigError([f"--device cuda: {instance.name} has no GPU; use one that has, or --device cpu"])
    capability = instance.compute_capability
    if capability is not None and capability < _OLDEST_CAPABILITY:
        has, needs = (".".join(map(str, version)) for version in (capability, _OLDEST_CAPABILITY))
        raise ConfigError(
            [f"{instance.name}: its {instance.gpu} has the compute capability {has}, and the CUDA image needs {needs}; use a newer GPU"]
        )
    return True


def instance_facts(instance: Instance, *, on_gpu: bool, used_bytes: int) -> DeviceFacts:
    """As device_facts would measure it with so many bytes of ours in use."""
    total = instance.gpu_bytes if on_gpu else instance.memory_bytes
    free = max(total - reserved_bytes(instance, on_gpu=on_gpu) - used_bytes, 0)
    if on_gpu:
        has_bf16 = instance.compute_capability is None or instance.compute_capability >= (8, 0)
        return DeviceFacts("cuda", f"{instance.name} ({instance.gpu})", total, free, has_fast_bf16=has_bf16, has_fast_int8=False)
    # Every processor in the table has AVX2, and the image has the compiled kernels.
    name = f"{instance.name} ({instance.cpu})"
    return DeviceFacts("cpu", name, total, free, instance.has_fast_bf16, has_fast_int8=True, multiplies_gguf=True)
