"""docker_tls_and_keys.sh as it stands, with the real image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from containers import DOCKER
from ports import claimed_port

pytestmark = pytest.mark.docker
SCRIPT = Path(__file__).resolve().parents[2] / "sagemaker_examples" / "docker_tls_and_keys.sh"


def test_a_key_opens_what_is_closed_without(image: str, model_options: tuple[str, ...]) -> None:
    options = " ".join(("--network host", *model_options))
    environ = {**os.environ, "IMAGE": image, "DOCKER": DOCKER, "PORT": str(claimed_port()), "OPTIONS": options, "MODEL": ""}
    done = subprocess.run(["bash", SCRIPT], env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert statuses == ["401", "200", "200"]
