"""What the image holds, without a server in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from containers import docker
from image_layers import layer_digests

pytestmark = pytest.mark.docker


def inside(image: str, *command: str) -> str:
    return docker("run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:]).stdout


def test_labels_tell_sagemaker_what_it_can_do(image: str) -> None:
    config = json.loads(docker("inspect", "--format", "{{json .Config}}", image).stdout)
    labels = config["Labels"]
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert labels["com.amazonaws.sagemaker.capabilities.bidirectional-streaming"] == "true"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == inside(image, "headway", "--version").split()[1]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]


def test_bill_of_materials_and_licences(image: str) -> None:
    bill = json.loads(inside(image, "cat", "/usr/share/headway/sbom.cdx.json"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    versions = {part["purl"].partition("@")[0]: part["version"] for part in bill["components"]}
    installed = json.loads(inside(image, "/opt/headway/bin/pip", "list", "--format", "json", "--disable-pip-version-check"))
    for package in installed:
        name = package["name"].lower().replace("_", "-")
        assert versions[f"pkg:pypi/{name}"] == package["version"]
    assert "pkg:deb/debian/libc6" in versions
    licences = inside(image, "cat", "/usr/share/headway/LICENSES.txt")
    for line in ("pypi transformers ", "pypi headway ", "deb  libc6 "):
        assert line in licences


def test_the_cpu_image_has_no_compiler_and_no_build_tools(image: str) -> None:
    found = inside(image, "sh", "-c", "ls /usr/bin /usr/local/bin /opt/headway/bin").split()
    assert not {"gcc", "cc", "g++", "make", "git", "curl"} & set(found)


def test_what_ray_and_kv_transfer_need_is_in_the_image(image: str) -> None:
    script = "import ray, nixl_cu12; nixl_cu12.nixl_agent('a', nixl_cu12.nixl_agent_config(backends=['UCX'])); print('both')"
    assert "both" in inside(image, "python", "-c", script)


def test_byte_code_is_in_the_image_and_its_times_are_fixed(image: str) -> None:
    times = inside(image, "find", "/opt/headway", "/usr", "/etc", "-newermt", "2025-01-02").splitlines()
    # Docker itself writes these when the container starts.
    assert set(times) <= {"/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"}
    assert inside(image, "find", "/opt/headway/lib", "-path", "*/headway/server/__pycache__/cli*.pyc")


@pytest.mark.timeout(2700, func_only=True)
def test_the_same_inputs_give_the_same_layers(image: str, tmp_path: Path) -> None:
    """Without the builder's cache, so that every stage runs anew."""
    docker("build", "--no-cache", "--network", "host", "--tag", f"{image}-again", ".", timeout_s=1800)
    try:
        assert layer_digests(f"{image}-again", tmp_path) == layer_digests(image, tmp_path)
    finally:
        docker("image", "rm", f"{image}-again")
