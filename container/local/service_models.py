"""botocore's own models of the services that are emulated: what their operations take."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from botocore.model import ServiceModel


@cache
def service_model(service: str) -> ServiceModel:
    """Read once, which takes a tenth of a second for some."""
    import botocore.session

    return botocore.session.get_session().get_service_model(service)
