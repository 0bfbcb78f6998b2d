"""What the data plane asks of whoever knows the endpoints: which copy of a container takes this request."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller's headers or path say about where a request goes."""

    variant: str | None = None
    component: str | None = None  # an inference component
    hostname: str | None = None  # TargetContainerHostname
    session: str | None = None  # the id of an open session: its copy takes all of its requests
    full: frozenset[str] = frozenset()  # URLs of copies that are passed over while another one is there


@dataclass(frozen=True, slots=True)
class Target:
    """One running copy. ``url`` has no slash at its end; ``adapter`` is what an adapter's inference component is called there.

    ``component`` is the inference component whose copy it is: of an adapter, its base.
    """

    url: str
    variant: str
    adapter: str | None = None
    component: str | None = None


@dataclass(frozen=True, slots=True)
class AsyncInference:
    """An endpoint's AsyncInferenceConfig."""

    output_uri: str  # s3://BUCKET/PREFIX
    failure_uri: str | None
    success_topic: str | None
    error_topic: str | None
    max_concurrent_per_copy: int
    include_response_in: frozenset[str] = frozenset()  # IncludeInferenceResponseIn


class Targets(Protocol):
    """Implemented by the control plane's endpoints, and by the one endpoint of `--url`."""

    def lease(self, endpoint: str, wish: Wish) -> AbstractContextManager[Target]:
        """A copy, counted as busy inside of the block. Raises PlatformError: no such endpoint, not InService, no such variant."""
        ...

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        """None for an endpoint that was made for real-time inference. Raises PlatformError as ``lease`` does."""
        ...

    def open_session(self, endpoint: str, session: str, target: Target) -> None:
        """A container has opened it: from now on a Wish of this session is for the copy of ``target``."""
        ...

    def close_session(self, endpoint: str, session: str) -> None:
        """A container has closed it."""
        ...
