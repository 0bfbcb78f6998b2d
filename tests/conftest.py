"""Settings that must come before any test module is imported."""

from __future__ import annotations

import os

import httpx
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

# Likewise: a request without a limit of its own gets one that only tells a server that hangs (httpx's is 5 s).
for part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, 60.0)
