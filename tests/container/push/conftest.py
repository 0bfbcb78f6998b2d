from __future__ import annotations

from collections.abc import Iterator

import pytest
from ecr_server import EcrServer, running_ecr


@pytest.fixture(scope="session")
def ecr_process() -> Iterator[EcrServer]:
    with running_ecr() as ecr:
        yield ecr


@pytest.fixture
def ecr(ecr_process: EcrServer, monkeypatch: pytest.MonkeyPatch) -> EcrServer:
    """ECR as it is at first; this process' AWS calls go there."""
    ecr_process.reset()
    for name, value in ecr_process.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "SAGEMAKER_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return ecr_process
