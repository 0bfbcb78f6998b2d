"""What a model's config says about its rotary embedding. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeType = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Fields beyond ``theta`` and ``rotary_dim`` matter to the types named beside them."""

    rotary_dim: int  # leading elements of a head that are rotated
    theta: float
    type: RopeType = "default"
    factor: float = 1.0  # linear, llama3, yarn
    original_max_position: int = 0  # llama3, yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn: cosines and sines are multiplied by it
    truncate: bool = True  # yarn: round the ramp's bounds to whole dimensions
    freq_divisors: tuple[float, ...] = ()  # a GGUF's own factor for each frequency (its form of llama3), applied last
