"""Settings that must come before any test module is imported."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings


def _has_cuda_device() -> bool:
    import torch

    return torch.cuda.is_available()


# As in the product (server/cli.py): torch's threads must not spin while other processes of the tests want the cores.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Triton decides whether to interpret when a kernel's module is imported, so this stands before everything else.
if not _has_cuda_device():
    os.environ["TRITON_INTERPRET"] = "1"

# How fast a machine is decides no test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)  # before the workers' own, which writes the groups into the names
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs side by side (`--dist loadgroup`): a file is a group, as its fixtures are made once; all tests of the image are one, as
    that is built once, and all of the GPU, which is one. The image's take longest, so they begin."""
    items.sort(key=lambda item: item.get_closest_marker("docker") is None)
    for item in items:
        group = item.path.relative_to(item.config.rootpath).as_posix()
        if item.get_closest_marker("docker") is not None:
            group = "image"
            item.add_marker(pytest.mark.timeout(1800))  # one of them waits until it is built, and one builds it again
        elif item.get_closest_marker("gpu") is not None:
            group = "gpu"
        item.add_marker(pytest.mark.xdist_group(group))
