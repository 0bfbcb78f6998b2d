"""The instance types of SageMaker that can hold a model, from instances.json: data with its date and sources.

Those with x86-64 processors and NVIDIA GPUs: the image is built for these alone. Families of before 2017 (m4, c4, t2, p2) are left out.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from headway.server.errors import ConfigError
from headway.server.words import GIB

_TABLE = Path(__file__).with_name("instances.json")


@dataclass(frozen=True, slots=True)
class Instance:
    """``gpu`` is the chip's name, None on a CPU instance; ``gpu_bytes`` is the memory of one."""

    name: str
    vcpus: int
    memory_bytes: int
    cpu: str
    has_fast_bf16: bool  # of the CPU: bf16 matrix products faster than fp32
    gpu: str | None
    num_gpus: int
    gpu_bytes: int
    compute_capability: tuple[int, int] | None


@cache
def all_instances() -> dict[str, Instance]:
    table = _table()
    return {name: _instance(name, facts, table) for name, facts in table["instances"].items()}


def find_instance(name: str) -> Instance:
    """Raises ConfigError with the nearest names."""
    if name in all_instances():
        return all_instances()[name]
    near = difflib.get_close_matches(name, all_instances(), n=3)
    raise ConfigError(
        [f"{name}: unknown instance type; {'did you mean ' + ' or '.join(near) if near else 'it begins with ml., as ml.g6.xlarge'}?"]
    )


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table


def _instance(name: str, facts: dict[str, Any], table: dict[str, Any]) -> Instance:
    gpu = facts.get("gpu")
    chip = table["gpus"].get(gpu, {"memory_mib": 0})
    major, _, minor = chip.get("compute_capability", "").partition(".")
    return Instance(
        name,
        facts["vcpus"],
        facts["memory_gib"] * GIB,
        facts["cpu"],
        table["cpus"][facts["cpu"]]["has_fast_bf16"],
        gpu,
        facts.get("num_gpus", 0),
        chip["memory_mib"] * 1024**2,
        (int(major), int(minor)) if major else None,
    )
