"""Which of several variants, and which of their copies, takes a request. Pure, but for the dice."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence

from headway.container.local.control.deployment import Variant
from headway.container.local.copies.seat import Seat
from headway.container.local.errors import PlatformError, validation_error

_MAX_SESSIONS = 10_000


def choose_variant(variants: Sequence[Variant], wanted: str | None) -> Variant:
    """The one that the caller names, else one by weight, of those that have a copy in service. Raises PlatformError."""
    if wanted is not None:
        named = next((variant for variant in variants if variant.name == wanted), None)
        if named is None:
            raise validation_error(f"Variant {wanted} not found: this endpoint has {', '.join(variant.name for variant in variants)}.")
        return named
    able = [variant for variant in variants if variant.fleet.in_service and variant.weight > 0]
    if not able:
        raise PlatformError(503, "ServiceUnavailable", "No copy of the endpoint's containers is in service now.")
    return random.choices(able, [variant.weight for variant in able])[0]


def choose_seat(seats: Sequence[Seat], strategy: str) -> Seat:
    """RANDOM as it says; any other strategy takes the one with the fewest open requests. ``seats`` is not empty."""
    if strategy == "RANDOM":
        return random.choice(seats)
    fewest = min(seat.num_open for seat in seats)
    return random.choice([seat for seat in seats if seat.num_open == fewest])


class Sessions:
    """Which seat opened which session of an endpoint. Beyond a bound the oldest are forgotten, and their requests refused where they go."""

    def __init__(self) -> None:
        self._seats: OrderedDict[str, Seat] = OrderedDict()

    def open(self, session: str, seat: Seat) -> None:
        self._seats[session] = seat
        while len(self._seats) > _MAX_SESSIONS:
            self._seats.popitem(last=False)

    def close(self, session: str) -> None:
        self._seats.pop(session, None)

    def seat(self, session: str | None) -> Seat | None:
        return self._seats.get(session) if session is not None else None
