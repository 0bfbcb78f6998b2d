"""Errors as the platform tells them: a status, AWS' own name for it, a message. Each protocol writes them in its own form."""

from __future__ import annotations

from collections.abc import Mapping

from headway.container.local.control.names import ACCOUNT
from headway.server.errors import HeadwayError

# As users of the platform have reported it.
NO_COMPONENTS = (
    "Inference Component Name header is not allowed for endpoints to which you dont plan to deploy inference components. "
    "Please remove the Inference Component Name header and try again."
)


class PlatformError(HeadwayError):
    """``fields`` are members beside Message: OriginalStatusCode and OriginalMessage of a ModelError."""

    def __init__(self, status: int, code: str, message: str, fields: Mapping[str, str | int] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = dict(fields or {})


def validation_error(message: str) -> PlatformError:
    """ValidationError of the runtime (its message names the endpoint), ValidationException of the control plane."""
    return PlatformError(400, "ValidationError", message)


def unknown_endpoint(name: str, hint: str = "") -> PlatformError:
    """The runtime's answer, also for an endpoint that takes no requests; what the platform doesn't say stands in ``hint``, behind."""
    return validation_error(f"Endpoint {name} of account {ACCOUNT} not found. {hint}".rstrip())
