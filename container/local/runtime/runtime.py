"""What every call to an endpoint has in common: faults, limits, which copy takes it, and what reaches the copy of its headers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from headway.container.local.errors import PlatformError, validation_error
from headway.container.local.faults import Faults
from headway.container.local.runtime.call import Call, CallerGone
from headway.container.local.runtime.container import Container
from headway.container.local.runtime.model_error import Place
from headway.container.local.runtime.parts import PartForm
from headway.container.local.targets import Targets, Wish

NEW_SESSION = "NEW_SESSION"
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


def check_supported(endpoint: str, members: dict[str, str]) -> None:
    """Raises PlatformError: ValidationError, of members that no endpoint here has a use for."""
    for name, problem in _REFUSED.items():
        if name in members:
            raise validation_error(f"Endpoint {endpoint} {problem}")


def wish_of(members: dict[str, str]) -> Wish:
    session = members.get("SessionId")
    return Wish(
        variant=members.get("TargetVariant"),
        component=members.get("InferenceComponentName"),
        hostname=members.get("TargetContainerHostname"),
        session=None if session == NEW_SESSION else session,
    )
