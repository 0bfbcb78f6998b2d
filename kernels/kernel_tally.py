"""Where the compiled kernels of this process come from, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class KernelTally:
    shipped: int = 0  # of the image
    kept: int = 0  # of an earlier start
    compiled: int = 0

    def __str__(self) -> str:
        return f"{self.shipped} of the image's, {self.kept} kept from an earlier start, {self.compiled} compiled"


TALLY = KernelTally()  # of the process, as Triton's caches are: gpu/shipped_cache.py counts
