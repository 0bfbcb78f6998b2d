"""Programmatic dependent launch: a kernel's programs begin while the kernel before still runs, and wait where they need its results.

Starting a kernel costs some 2 us on a GPU that idles meanwhile, as long as the short kernels of a decode step run. On Hopper and later
a kernel can tell that the next may begin (``start_next``), as soon as there is room for its programs, and the next waits for it to end
(``await_previous``). Recorded into a CUDA graph such a launch stays what it is. Elsewhere both do nothing.

The rules, for every kernel launched with ``launch_options``:
- each program of it calls ``await_previous``, whatever it does else. So a kernel ends after the one before, and waiting for one is
  waiting for all before it: also for a kernel that was launched the ordinary way, as those of libraries are.
- before that it reads only what no kernel of a step writes, which is weights, and writes nothing.

(CUDA programming guide, "Programmatic Dependent Launch and Synchronization".)
"""

# mypy: allow-incomplete-defs

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def start_next(IS_DEPENDENT: tl.constexpr):
    """The next kernel may begin once every program of this one has come here or ended. Called first: what it may not do yet, it awaits."""
    if IS_DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def await_previous(IS_DEPENDENT: tl.constexpr):
    """What all kernels before have written can be read from here on, and what they read be written."""
    if IS_DEPENDENT:
        gdc_wait()


@functools.cache
def has_dependent_launch(device: torch.device) -> bool:
    """Whether kernels can be launched so there. Never in the interpreter, nor on AMD's chips, whose capability is another thing."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def launch_options(device: torch.device) -> dict[str, Any]:
    """What a kernel with a parameter IS_DEPENDENT is launched with."""
    return {"IS_DEPENDENT": True, "launch_pdl": True} if has_dependent_launch(device) else {"IS_DEPENDENT": False}
