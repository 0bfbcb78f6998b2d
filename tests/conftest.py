"""Settings that must come before any test module is imported."""

from __future__ import annotations

import os


def _has_cuda_device() -> bool:
    import torch

    return torch.cuda.is_available()


# Triton decides whether to interpret when a kernel's module is imported, so this stands before everything else.
if not _has_cuda_device():
    os.environ["TRITON_INTERPRET"] = "1"
