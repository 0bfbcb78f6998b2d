"""What reads configs without torch knows the same activations as the layers."""

from __future__ import annotations

from headway.server.layers.activation import ACTIVATIONS, GATED_ACTIVATIONS
from headway.server.layers.activation_names import ACTIVATION_NAMES, GATED_ACTIVATION_NAMES


def test_the_names_are_those_of_the_layers() -> None:
    assert set(ACTIVATION_NAMES) == set(ACTIVATIONS)
    assert set(GATED_ACTIVATION_NAMES) == set(GATED_ACTIVATIONS)
