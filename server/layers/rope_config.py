"""What a model's config says about its rotary embedding. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeType = Literal["none", "default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Fields beyond ``theta`` and ``rotary_dim`` matter to the types named beside them."""

    rotary_dim: int  # leading elements of a head that are rotated
    theta: float
    type: RopeType = "default"
    factor: float = 1.0  # linear, dynamic, llama3, yarn
    original_max_position: int = 0  # dynamic, llama3, yarn, longrope
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn, longrope: cosines and sines are multiplied by it
    truncate: bool = True  # yarn: round the ramp's bounds to whole dimensions
    short_factors: tuple[float, ...] = ()  # longrope: each frequency's divisor, where positions end at original_max_position
    long_factors: tuple[float, ...] = ()  # longrope: where they go beyond
    is_interleaved: bool = False  # pairs are neighbours, not half the rotated elements apart
    freq_divisors: tuple[float, ...] = ()  # a GGUF's own factor for each frequency (its form of llama3), applied last

    def length_class(self, num_positions: int) -> int:
        """Equal for lengths of a context for which positions are turned alike."""
        if self.type == "dynamic":
            return max(num_positions, self.original_max_position)
        return int(self.type == "longrope" and num_positions > self.original_max_position)


# What turns nothing, for layers without a rotary embedding: a pair by an angle of 0.
NO_ROPE = RopeConfig(rotary_dim=2, theta=1.0, type="none")
