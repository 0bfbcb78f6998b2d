"""The table of cosines and sines for rotary position embeddings, with the scalings that stretch a model's context."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.server.layers.rope_config import RopeConfig


def rope_table(config: RopeConfig, num_positions: int, device: torch.device) -> Tensor:
    """[num_positions, rotary_dim] fp32, the cosines then the sines, as kernels/rope.py takes it.

    Types that change with a text's length (dynamic, longrope) are those of a text of ``num_positions``: keys stay in the cache as they were
    rotated, so that one text's must not change while it grows.
    """
    frequencies = inverse_frequencies(config, num_positions)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).mul_(config.attention_factor).to(device)


def rotated(x: Tensor, cos_sin: Tensor) -> Tensor:
    """x [..., D] with pairs (i, i + D / 2) turned by ``cos_sin`` [..., D] fp32, the cosines then the sines. For what keeps no cache;
    kernels/rope.py defines it."""
    cos, sin = cos_sin.chunk(2, dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def inverse_frequencies(config: RopeConfig, num_positions: int) -> Tensor:
    """[rotary_dim / 2] fp32: radians a position turns each pair by. (Su et al., arXiv:2104.09864)"""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    theta = _dynamic_theta(config, num_positions) if config.type == "dynamic" else config.theta
    frequencies = 1.0 / (theta**exponents)
    if config.type == "none":
        frequencies.zero_()
    elif config.type == "linear":
        frequencies = frequencies / config.factor
    elif config.type == "longrope":
        factors = config.long_factors if config.length_class(num_positions) else config.short_factors
        frequencies = frequencies / torch.tensor(factors, dtype=torch.float32)
    elif config.type == "llama3":
        frequencies = _llama3(config, frequencies)
    elif config.type == "yarn":
        frequencies = _yarn(config, frequencies)
    if config.freq_divisors:
        frequencies = frequencies / torch.tensor(config.freq_divisors, dtype=torch.float32)
    return frequencies


def _dynamic_theta(config: RopeConfig, num_positions: int) -> float:
    """A larger base for longer texts, so that the slowest pair turns no further than it did in training (NTK-aware scaling)."""
    stretch = config.factor * config.length_class(num_positions) / config.original_max_position - (config.factor - 1)
    return float(config.theta * stretch ** (config.rotary_dim / (config.rotary_dim - 2)))


def _llama3(config: RopeConfig, frequencies: Tensor) -> Tensor:
    """Long waves are stretched by the factor, short ones kept, those between blended (Llama 3.1)."""
    turns = config.original_max_position * frequencies / (2 * math.pi)  # over the context the model was first trained on
    keep = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    keep = keep.clamp(0, 1)
    return (1 - keep) * frequencies / config.factor + keep * frequencies


def _yarn(config: RopeConfig, frequencies: Tensor) -> Tensor:
    """As llama3, with a ramp over dimensions instead of wavelengths (Peng et al., arXiv:2309.00071)."""

    def dimension_with(num_turns: float) -> float:
        return config.rotary_dim * math.log(config.original_max_position / (num_turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = dimension_with(config.beta_fast), dimension_with(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    if low == high:
        high += 0.001  # a step instead of a division by zero
    stretch = ((torch.arange(config.rotary_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return frequencies / config.factor * stretch + frequencies * (1 - stretch)
