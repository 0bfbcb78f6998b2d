"""The copies of one variant or component: as many as are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headway.container.local.copies.base import CopyFailed
from headway.container.local.copies.seat import Seat


class Fleet:
    """``new_seat`` makes one, given its number. Its owner calls ``resize`` and ``close`` one at a time."""

    def __init__(self, new_seat: Callable[[int], Seat], drain_limit_s: float) -> None:
        self.seats: list[Seat] = []
        self._new_seat = new_seat
        self._drain_limit_s = drain_limit_s
        self._num_made = 0

    @property
    def in_service(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.copy is not None]

    async def resize(self, num_copies: int) -> None:
        """Returns with that many copies in service, or stopped. Raises CopyFailed: new ones failed, and are gone; the others go on."""
        surplus = self.seats[num_copies:]
        self.seats = self.seats[:num_copies]
        await asyncio.gather(*(seat.retire(self._drain_limit_s) for seat in surplus))
        new = [self._add() for _ in range(num_copies - len(self.seats))]
        try:
            await asyncio.gather(*(seat.wait_in_service() for seat in new))
        except CopyFailed:
            self.seats = [seat for seat in self.seats if seat not in new]
            await asyncio.gather(*(seat.retire(0.0) for seat in new))
            raise

    async def close(self, drain_limit_s: float | None = None) -> None:
        seats, self.seats = self.seats, []
        limit_s = self._drain_limit_s if drain_limit_s is None else drain_limit_s
        await asyncio.gather(*(seat.retire(limit_s) for seat in seats))

    def _add(self) -> Seat:
        self._num_made += 1
        seat = self._new_seat(self._num_made)
        self.seats.append(seat)
        return seat
