"""What a long simulation says while it runs, and how it is ended early."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from sim_trace import TracedRequest


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


class Watch:
    """Lets a trace's requests pass, says how far it is on stderr, and ends it at the first SIGINT or SIGTERM."""

    def __init__(self, every: int, num_requests: int | None) -> None:
        """``num_requests``: of each trace, where it is known."""
        self._every = every
        self._num_requests = num_requests
        self.is_over = False

    @contextmanager
    def ending_early(self) -> Iterator[None]:
        """A second signal does what it always does."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def end(number: int, frame: FrameType | None) -> None:
            self.is_over = True
            signal.signal(number, signal.SIG_DFL)

        for number in before:
            signal.signal(number, end)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def over(self, requests: Iterable[TracedRequest], what: str) -> Iterator[TracedRequest]:
        started, used = time.perf_counter(), time.process_time()
        for number, request in enumerate(requests):
            if self.is_over:
                print(f"{what}: ended early, after {number:,} requests", file=sys.stderr, flush=True)
                return
            if number % self._every == 0 and number:
                self._tell(what, number, request.timestamp / 1000, time.perf_counter() - started, time.process_time() - used)
            yield request

    def _tell(self, what: str, num_done: int, virtual_s: float, seconds: float, cpu_s: float) -> None:
        left = "" if self._num_requests is None else f" of {self._num_requests:,}"
        ends = "" if self._num_requests is None else f", {(self._num_requests - num_done) * seconds / num_done / 60:.0f} min left"
        print(
            f"{what}: {num_done:,}{left} requests, {virtual_s:.1f} s of virtual time; {num_done / seconds:,.0f} a second, "
            f"{num_done / cpu_s:,.0f} a second of CPU time; {peak_gib():.2f} GiB at the peak{ends}",
            file=sys.stderr,
            flush=True,
        )
