"""How DescribeInferenceComponent shows a specification. Pure."""

from __future__ import annotations

from typing import Any

from headway.container.local.copies.base import CopySpec


def described_specification(specification: dict[str, Any], deployed: CopySpec | None) -> dict[str, Any]:
    """As it was given, but for the Image: of a Container's the answer says what was deployed."""
    shown = dict(specification)
    if "Container" in specification:
        container = dict(specification["Container"])
        image = container.pop("Image", None)
        if image and deployed:
            container["DeployedImage"] = {"SpecifiedImage": image, "ResolvedImage": image}
        shown["Container"] = container
    return shown
