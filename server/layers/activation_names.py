"""The names by which configs call the activations of layers/activation.py, for what reads configs without torch."""

from __future__ import annotations

GATED_ACTIVATION_NAMES = ("silu", "gelu", "gelu_pytorch_tanh")
ACTIVATION_NAMES = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh")
