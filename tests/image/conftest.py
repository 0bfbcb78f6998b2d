from __future__ import annotations

import os
import subprocess

import pytest
from containers import ROOT, engine_problem
from demo_model import demo_gguf

IMAGE = "headway:test"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for the image, which has a limit of its own: others may have the processors then."""
    for item in items:
        if isinstance(item, pytest.Function) and "image" in item.fixturenames:
            item.add_marker(pytest.mark.timeout(func_only=True))


@pytest.fixture(scope="session")
def image() -> str:
    """The image, built from this checkout. Without a Docker engine the tests are skipped, unless HEADWAY_REQUIRE_DOCKER says that
    there must be one."""
    if (problem := engine_problem()) is not None:
        if os.environ.get("HEADWAY_REQUIRE_DOCKER"):
            pytest.fail(f"HEADWAY_REQUIRE_DOCKER is set, but {problem}")
        pytest.skip(f"no Docker engine: {problem}")
    done = subprocess.run(["make", "image", f"IMAGE={IMAGE}"], cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return IMAGE


@pytest.fixture(scope="session")
def model_options() -> tuple[str, ...]:
    """Docker's options that put the demo model where SageMaker puts models: read-only below /opt/ml/model."""
    return ("--volume", f"{demo_gguf()}:/opt/ml/model/model.gguf:ro")
