"""The bounds of the histograms' buckets, by family: vLLM's own, and what --custom-histogram-buckets puts in their place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from headway.server.words import cut

Bounds = tuple[float, ...]

REQUEST_TOKENS = "request_tokens"
_FIXED: dict[str, Bounds] = {
    "request_latency": (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680),
    "time_to_first_token": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1),
        *(2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
    ),
    "inter_token_latency": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
    "iteration_tokens": (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
    "request_params_n": (1, 2, 5, 10, 20),
    "request_num_preemptions": (1, 2, 3, 4, 5, 10, 20),
}
FAMILIES = (*_FIXED, REQUEST_TOKENS)
_NOT_EXPORTED = "kv_cache_residency"


def bounds_of(family: str, custom: Mapping[str, Any], max_model_len: int | None = None) -> Bounds:
    """Those of ``custom``, which ``bucket_problems`` found nothing in, else vLLM's.

    Counts of tokens go 1, 2, 5, 10, .. up to ``max_model_len``; only for them it is needed.
    """
    if family in custom:
        return tuple(map(float, custom[family]))
    if family != REQUEST_TOKENS:
        return _FIXED[family]
    assert max_model_len is not None, "the bounds of token counts depend on the model's context"
    powers = range(len(str(max_model_len)))
    return tuple(bound for power in powers for bound in (10**power, 2 * 10**power, 5 * 10**power) if bound <= max_model_len)


def bucket_problems(custom: Mapping[str, Any]) -> list[str]:
    """A sentence for each family that can't be taken as it is."""
    return [f"--custom-histogram-buckets: {problem}" for family, given in custom.items() if (problem := _problem(family, given))]


def _problem(family: str, given: Any) -> str | None:
    if family == _NOT_EXPORTED:
        return f"the histograms of {family} are not exported by this version of Headway; leave it out"
    if family not in FAMILIES:
        return f"there is no family {cut(family, 100)!r}; the families are {', '.join(FAMILIES)}"
    if not (isinstance(given, list) and given and all(_is_bound(bound) for bound in given)):
        return f"{family} must be a list of numbers above 0, such as [0.5, 1, 5], got {cut(str(given), 100)}"
    bounds = list(map(float, given))
    if any(low >= high for low, high in pairwise(bounds)):
        return f"{family} must rise from each bound to the next, got {cut(str(given), 100)}"
    return None


def _is_bound(bound: Any) -> bool:
    return isinstance(bound, int | float) and not isinstance(bound, bool) and 0 < bound <= sys.float_info.max
