"""Implements Targets: which running copy takes a request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from headway.container.local.control.components import Components
from headway.container.local.control.endpoints import Endpoint, Endpoints
from headway.container.local.control.routing import choose_seat, choose_variant
from headway.container.local.copies.seat import Seat
from headway.container.local.errors import NO_COMPONENTS, PlatformError, unknown_endpoint, validation_error
from headway.container.local.faults import Faults
from headway.container.local.targets import AsyncInference, Target, Wish

# The platform's default for MaxConcurrentInvocationsPerInstance is chosen by itself; a model server takes a few at once.
_ASYNC_CONCURRENCY = 4


class Leases:
    def __init__(self, endpoints: Endpoints, components: Components, faults: Faults) -> None:
        self._endpoints, self._components, self._faults = endpoints, components, faults

    @contextlib.contextmanager
    def lease(self, endpoint: str, wish: Wish) -> Iterator[Target]:
        found = self._find(endpoint)
        seats, variant, strategy, adapter = self._candidates(found, wish)
        seat = found.sessions.seat(wish.session)
        if seat is None or seat not in seats:
            with_room = [one for one in seats if one.copy and one.copy.url not in wish.full] if wish.full else seats
            seat = choose_seat(with_room or seats, strategy)
        if self._faults.kills():
            seat.kill()
        with seat.busy() as copy:
            yield Target(copy.url, variant, adapter, self._host(wish.component))

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        config = self._find(endpoint).deployment.config.request.get("AsyncInferenceConfig")
        if config is None:
            return None
        output, notices = config["OutputConfig"], config["OutputConfig"].get("NotificationConfig", {})
        return AsyncInference(
            output.get("S3OutputPath", ""),
            output.get("S3FailurePath"),
            notices.get("SuccessTopic"),
            notices.get("ErrorTopic"),
            config.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance", _ASYNC_CONCURRENCY),
            frozenset(notices.get("IncludeInferenceResponseIn", ())),
        )

    def open_session(self, endpoint: str, session: str, target: Target) -> None:
        """``target`` has opened that session: its copy takes all requests that wish for it."""
        found = self._endpoints.registry.find(endpoint)
        seat = next((seat for seat in self._all_seats(found) if seat.copy and seat.copy.url == target.url), None) if found else None
        if found and seat:
            found.sessions.open(session, seat)

    def close_session(self, endpoint: str, session: str) -> None:
        if found := self._endpoints.registry.find(endpoint):
            found.sessions.close(session)

    def copies_of(self, endpoint: str, variant: str | None = None, component: str | None = None) -> list[Seat]:
        """Those in service, each with its ``num_open`` requests. Empty where there is no such endpoint."""
        found = self._endpoints.registry.find(endpoint)
        if found is None:
            return []
        if component is not None:
            named = self._components.registry.find(component)
            return named.seats if named and named.endpoint is found else []
        variants = [one for one in found.deployment.variants.values() if variant in (None, one.name)]
        return [seat for one in variants for seat in one.fleet.in_service]

    def _find(self, name: str) -> Endpoint:
        endpoint = self._endpoints.registry.find(name)
        if endpoint is None or not endpoint.takes_requests:
            raise unknown_endpoint(name, f"It is {endpoint.status}." if endpoint else "")
        return endpoint

    def _candidates(self, endpoint: Endpoint, wish: Wish) -> tuple[Sequence[Seat], str, str, str | None]:
        """(seats, variant, routing strategy, adapter)."""
        if wish.hostname is not None:
            raise validation_error("TargetContainerHostname is for multi-container endpoints, which this runtime does not emulate.")
        if wish.component is not None:
            return self._of_component(endpoint, wish.component)
        variants = list(endpoint.deployment.variants.values())
        if all(variant.model is None for variant in variants):
            raise validation_error(
                "Inference Component Name header is required for endpoints to which you plan to deploy inference components. "
                "Please include Inference Component Name header or consider using SageMaker models."
            )
        variant = choose_variant([one for one in variants if one.model], wish.variant)
        if not variant.fleet.in_service:
            raise PlatformError(503, "ServiceUnavailable", f"No copy of variant {variant.name} is in service now.")
        return variant.fleet.in_service, variant.name, variant.strategy, None

    def _host(self, name: str | None) -> str | None:
        """The inference component whose copies take the requests of ``name``."""
        component = self._components.registry.find(name) if name is not None else None
        return (component.base or component).name if component else None

    def _of_component(self, endpoint: Endpoint, name: str) -> tuple[Sequence[Seat], str, str, str | None]:
        if all(variant.model is not None for variant in endpoint.deployment.variants.values()):
            raise validation_error(NO_COMPONENTS)
        component = self._components.registry.find(name)
        if component is None or component.endpoint is not endpoint:
            raise validation_error(f"Inference Component Name {name} not found on endpoint {endpoint.name}.")
        if component.status not in ("InService", "Updating"):
            raise validation_error(f"Inference Component {name} is {component.status}, and takes no requests.")
        if not component.seats:
            # As AWS' machine learning blog shows it ("Unlock cost savings with the new scale down to zero feature", 2024).
            raise validation_error(
                "Inference Component has no capacity to process this request. ApplicationAutoScaling may be in-progress (if configured) "
                "or try to increase the capacity by invoking UpdateInferenceComponentRuntimeConfig API."
            )
        variant = endpoint.deployment.variants[component.variant]
        return component.seats, variant.name, variant.strategy, component.name if component.base else None

    def _all_seats(self, endpoint: Endpoint) -> list[Seat]:
        own = self.copies_of(endpoint.name)
        return own + [seat for one in self._components.registry if one.endpoint is endpoint and not one.base for seat in one.seats]
