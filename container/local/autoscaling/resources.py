"""What can be scaled: a variant of an endpoint, or an inference component; as application-autoscaling names it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headway.container.local.control.registry import refused

VARIANT = "sagemaker:variant:DesiredInstanceCount"
COMPONENT = "sagemaker:inference-component:DesiredCopyCount"
_NAME = "[a-zA-Z0-9](?:-*[a-zA-Z0-9])*"
_FORMS = {VARIANT: re.compile(f"endpoint/({_NAME})/variant/({_NAME})"), COMPONENT: re.compile(f"inference-component/({_NAME})")}


@dataclass(frozen=True, slots=True)
class Resource:
    """``endpoint`` and ``variant`` of a variant, else ``component``."""

    endpoint: str | None = None
    variant: str | None = None
    component: str | None = None

    @classmethod
    def of(cls, resource_id: str, dimension: str) -> Resource:
        """Raises PlatformError."""
        form = _FORMS.get(dimension)
        if form is None:
            raise refused(f"ScalableDimension {dimension} is none that this runtime scales: use {' or '.join(_FORMS)}.")
        found = form.fullmatch(resource_id)
        if not found:
            raise refused(
                f"ResourceId {resource_id!r} does not fit {dimension}: write endpoint/NAME/variant/NAME or inference-component/NAME."
            )
        return cls(found[1], found[2]) if dimension == VARIANT else cls(component=found[1])

    @property
    def id(self) -> str:
        return f"inference-component/{self.component}" if self.component else f"endpoint/{self.endpoint}/variant/{self.variant}"

    @property
    def dimension(self) -> str:
        return COMPONENT if self.component else VARIANT


class Scalables(Protocol):
    """What the control plane offers. All of it raises PlatformError for a resource that is not there (any more)."""

    def num_desired(self, resource: Resource) -> int:
        """How many copies it is to have."""
        ...

    def urls(self, resource: Resource) -> Sequence[str]:
        """Those of its copies that are in service."""
        ...

    async def scale(self, resource: Resource, num_copies: int) -> None:
        """Returns once it has so many."""
        ...
