"""The table of instance types against what AWS' own data says."""

from __future__ import annotations

import gzip
import json
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

import botocore.session
import pytest

from headway.container.instances import all_instances, find_instance
from headway.server.errors import ConfigError
from headway.server.words import GIB

_TABLE = resources.files("headway.container") / "instances.json"


@cache
def names_of_sagemaker() -> list[str]:
    model = botocore.session.get_session().get_service_model("sagemaker")
    names: list[str] = model.shape_for("ProductionVariantInstanceType").enum
    return names


@cache
def ec2_facts() -> dict[str, Any]:
    file = resources.files("moto.ec2") / "resources" / "instance_types.json.gz"
    facts: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return facts


def test_every_name_is_one_that_sagemaker_takes() -> None:
    assert set(all_instances()) <= set(names_of_sagemaker())


def test_no_type_with_an_nvidia_gpu_is_left_out() -> None:
    """But those for ARM (Grace), and p2, whose GPUs no driver of today runs."""
    families = ("g", "p")
    named = {name for name in names_of_sagemaker() if name.removeprefix("ml.").startswith(families)}
    left_out = {name for name in named - set(all_instances()) if not name.startswith(("ml.p2.", "ml.p6e-gb200."))}
    assert left_out == set()


def test_sizes_are_those_of_ec2() -> None:
    compared = 0
    for name, instance in all_instances().items():
        facts = ec2_facts().get(name.removeprefix("ml."))
        if facts is None:
            assert name.startswith("ml.p3."), f"{name}: EC2 no longer lists it"
            continue
        compared += 1
        gpus = facts.get("GpuInfo", {}).get("Gpus", [])
        assert instance.vcpus == facts["VCpuInfo"]["DefaultVCpus"], name
        assert instance.memory_bytes == facts["MemoryInfo"]["SizeInMiB"] * 1024**2, name
        assert instance.num_gpus == sum(gpu["Count"] for gpu in gpus), name
        assert "x86_64" in facts["ProcessorInfo"]["SupportedArchitectures"], name
        if gpus:
            assert instance.gpu is not None
            assert instance.gpu.startswith(gpus[0]["Name"].replace("Server ", "").split("-")[0]), name
            # EC2 tells what is soldered on, or what is left of it with error correction.
            told = gpus[0]["MemoryInfo"]["SizeInMiB"] * 1024**2
            assert 0.93 * told < instance.gpu_bytes < 1.01 * told, name
    assert compared > 100


def test_the_table_has_its_date_and_sources() -> None:
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    assert date.fromisoformat(table["date"]) <= date(2100, 1, 1)
    assert all(isinstance(source, str) for source in table["sources"])
    assert len(table["sources"]) >= 3
    assert {gpu["memory_from"] for gpu in table["gpus"].values()} == {"driver", "EC2, less 0.5%"}


def test_finding_one() -> None:
    found = find_instance("ml.g6.12xlarge")
    assert (found.vcpus, found.memory_bytes, found.gpu, found.num_gpus) == (48, 192 * GIB, "L4", 4)
    assert found.compute_capability == (8, 9)
    cpu = find_instance("ml.c7i.4xlarge")
    assert (cpu.gpu, cpu.num_gpus, cpu.gpu_bytes, cpu.compute_capability, cpu.has_fast_bf16) == (None, 0, 0, None, True)
    with pytest.raises(ConfigError, match=r"ml\.g6\.13xlarge: unknown instance type; did you mean ml\.g6\.16xlarge or ml\.g6\.12xlarge"):
        find_instance("ml.g6.13xlarge")
    with pytest.raises(ConfigError, match="begins with ml"):
        find_instance("xyzzy")
