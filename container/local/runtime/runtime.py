"""What every call to an endpoint has in common: faults, limits, which copy takes it, and what reaches the copy of its headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from headway.container.local.errors import PlatformError, validation_error
from headway.container.local.faults import Faults
from headway.container.local.runtime.call import Call, CallerGone
from headway.container.local.runtime.container import Container
from headway.container.local.runtime.members import container_headers, read_members
from headway.container.local.runtime.model_error import Place
from headway.container.local.runtime.parts import PartForm
from headway.container.local.targets import Target, Targets, Wish

_NEW_SESSION = "NEW_SESSION"
_REFUSED = {
    "TargetModel": "is no multi-model endpoint: invoke it without TargetModel.",
    "EnableExplanations": "has no explainer: invoke it without EnableExplanations.",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of the platform; tests have no minutes."""

    body_bytes: int = 25 * 1024**2
    answer_s: float = 60.0
    stream_s: float = 480.0


@dataclass(frozen=True, slots=True)
class Runtime:
    targets: Targets
    container: Container
    faults: Faults
    place: Place
    parts: PartForm = field(default_factory=PartForm)
    limits: Limits = field(default_factory=Limits)

    async def meet_faults(self, call: Call) -> None:
        """Of `--faults`, those that meet a call before anything is done about it. Raises PlatformError, CallerGone."""
        if delay_s := self.faults.delay_s():
            await asyncio.sleep(delay_s)
        if self.faults.drops():
            await call.drop()
            raise CallerGone
        if self.faults.throttles():
            raise PlatformError(400, "ThrottlingException", "Rate exceeded")
        match self.faults.refusal():
            case "ServiceUnavailable":
                raise PlatformError(503, "ServiceUnavailable", "The service is unavailable. Try your call again.")
            case "InternalFailure":
                raise PlatformError(500, "InternalFailure", "An internal failure occurred.")

    async def forward_to_copy(self, call: Call, endpoint: str, wish: Wish, members: Mapping[str, str], forward: Forward) -> None:
        """Reads the body, and has a copy called for as long as the caller waits. ``members``: those that may reach it.

        Raises PlatformError, CallerGone.
        """
        body = await call.body(self.limits.body_bytes)
        with self.targets.lease(endpoint, wish) as target:
            call.note = target.variant
            await call.while_connected(forward(self, call, endpoint, target, container_headers(members, target.adapter), body))


# Calls the copy with these headers and this body, and answers the call. Raises PlatformError.
Forward = Callable[[Runtime, Call, str, Target, Mapping[str, str], bytes], Coroutine[Any, Any, None]]


async def forward_operation(runtime: Runtime, call: Call, operation: str, endpoint: str, forward: Forward) -> None:
    """An operation of the runtime's API, by botocore's name. Raises PlatformError, CallerGone."""
    members = read_members(operation, call.headers)
    _check_supported(endpoint, members)
    await runtime.forward_to_copy(call, endpoint, _wish_of(members), members, forward)


def _check_supported(endpoint: str, members: Mapping[str, str]) -> None:
    """Raises PlatformError: ValidationError, of members that no endpoint here has a use for."""
    for name, problem in _REFUSED.items():
        if name in members:
            raise validation_error(f"Endpoint {endpoint} {problem}")


def _wish_of(members: Mapping[str, str]) -> Wish:
    session = members.get("SessionId")
    return Wish(
        variant=members.get("TargetVariant"),
        component=members.get("InferenceComponentName"),
        hostname=members.get("TargetContainerHostname"),
        session=None if session == _NEW_SESSION else session,
    )
