"""Whether the copies of inference components have room on a variant's instances. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headway.container.instances import Instance

_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Need:
    """What one copy takes of an instance."""

    num_gpus: float
    num_cpus: float
    memory_bytes: int


def need_of(requirements: dict[str, Any]) -> Need:
    """From ComputeResourceRequirements."""
    return Need(
        requirements.get("NumberOfAcceleratorDevicesRequired", 0.0),
        requirements.get("NumberOfCpuCoresRequired", 0.0),
        requirements["MinMemoryRequiredInMb"] * _MIB,
    )


def have_room(copies: Iterable[Need], instance: Instance, num_instances: int) -> bool:
    """Whether all of them can be placed, the largest first, each on the first instance that still has room."""
    free = [Need(instance.num_gpus, instance.vcpus, instance.memory_bytes)] * num_instances
    for need in sorted(copies, key=lambda copy: (copy.num_gpus, copy.memory_bytes, copy.num_cpus), reverse=True):
        place = next((number for number, room in enumerate(free) if _fits(need, room)), None)
        if place is None:
            return False
        room = free[place]
        free[place] = Need(room.num_gpus - need.num_gpus, room.num_cpus - need.num_cpus, room.memory_bytes - need.memory_bytes)
    return True


def _fits(need: Need, room: Need) -> bool:
    return need.num_gpus <= room.num_gpus and need.num_cpus <= room.num_cpus and need.memory_bytes <= room.memory_bytes
