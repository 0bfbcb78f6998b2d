"""Looks at each scalable target as often as its metrics have points, decides, scales, and writes down what it did."""

from __future__ import annotations

import asyncio
import math
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from headway.container.local.autoscaling.load import Reading
from headway.container.local.autoscaling.metrics import Metrics
from headway.container.local.autoscaling.resources import Scalables
from headway.container.local.autoscaling.service import Autoscaling, Policy, ScalableTarget, end_activity, new_activity
from headway.container.local.autoscaling.tracking import NUM_IN_POINTS, agreed, num_in_points, proposal
from headway.server.errors import HeadwayError, sentence_of

_SMALLEST_PERIOD_S = 10.0


@dataclass(slots=True)
class _Watch:
    """A policy's points, and when the next one is due."""

    before: Reading
    due: float
    points: deque[float]


@dataclass(slots=True)
class _Past:
    """When a target was last scaled, monotonic, and the task that does so now."""

    out_at: float = -math.inf
    in_at: float = -math.inf
    task: asyncio.Task[None] | None = None


class AutoscalingLoop:
    """``interval_s`` takes the place of the metrics' own periods (60 s, or 10 s of high resolution). ``say`` prints a line for people.

    To be used inside of `async with`.
    """

    def __init__(
        self, service: Autoscaling, scalables: Scalables, metrics: Metrics, say: Callable[[str], None], interval_s: float | None = None
    ) -> None:
        self._service, self._scalables, self._metrics, self._say = service, scalables, metrics, say
        self._interval_s = interval_s
        self._watches: dict[Policy, _Watch] = {}
        self._past: dict[ScalableTarget, _Past] = {}

    async def __aenter__(self) -> AutoscalingLoop:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = [self._task, *(past.task for past in self._past.values() if past.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            targets = list(self._service.targets.values())
            self._forget(targets)
            for bug in await asyncio.gather(*(self._look(target) for target in targets), return_exceptions=True):
                if isinstance(bug, Exception):  # told, and the other targets are scaled all the same
                    self._say("".join(traceback.format_exception(bug)))
            await asyncio.sleep(self._interval_s or _SMALLEST_PERIOD_S)

    def _forget(self, targets: list[ScalableTarget]) -> None:
        """What was kept of targets and policies that are gone."""
        kept = {policy for target in targets for policy in target.policies.values()}
        self._watches = {policy: watch for policy, watch in self._watches.items() if policy in kept}
        self._past = {target: past for target, past in self._past.items() if target in targets or (past.task and not past.task.done())}

    async def _look(self, target: ScalableTarget) -> None:
        past = self._past.setdefault(target, _Past())
        if not target.policies or (past.task and not past.task.done()):
            return
        try:
            num_copies = self._scalables.num_desired(target.resource)
            for policy in target.policies.values():
                await self._measure(target, policy)
        except HeadwayError:  # the resource is gone, and may come again
            return
        wanted, cause = self._wanted(target, num_copies, past)
        if wanted != num_copies:
            past.task = asyncio.create_task(self._scale(target, past, num_copies, wanted, cause))

    async def _measure(self, target: ScalableTarget, policy: Policy) -> None:
        now, period_s = time.monotonic(), self._interval_s or policy.tracking.metric.period_s
        watch = self._watches.get(policy)
        if watch is None:
            self._watches[policy] = _Watch(self._metrics.reading(target.resource), now + period_s, deque(maxlen=self._num_in(policy)))
        elif now >= watch.due:
            urls = self._scalables.urls(target.resource)
            value = await self._metrics.value(policy.tracking.metric, target.resource, urls, watch.before)
            watch.before, watch.due = self._metrics.reading(target.resource), now + period_s
            if value is not None:
                watch.points.append(value)

    def _wanted(self, target: ScalableTarget, num_copies: int, past: _Past) -> tuple[int, str]:
        """How many copies there shall be, and why; ``num_copies`` if nothing shall change now."""
        if (bounded := target.bounds.within(num_copies)) != num_copies:
            return bounded, f"the capacity {num_copies} was outside of the scalable target's bounds"
        asked = {
            policy: proposal(tuple(self._points(policy)), num_copies, policy.tracking.target, self._num_in(policy))
            for policy in target.policies.values()
        }
        wanted = agreed([(number, policy.tracking.may_scale_in) for policy, number in asked.items()], num_copies)
        deciding = [policy for policy, number in asked.items() if number == wanted] or list(asked)
        if self._rests(target, past, wanted - num_copies, deciding[0]):
            return num_copies, ""
        state = "above its target" if wanted > num_copies else "below 90% of its target"
        return target.bounds.within(wanted), f"policy {deciding[0].name}: the metric {deciding[0].tracking.metric.name} was {state}"

    def _num_in(self, policy: Policy) -> int:
        """How many low points scale in; with an interval of its own, the loop knows no minutes."""
        return NUM_IN_POINTS if self._interval_s else num_in_points(policy.tracking.metric.period_s)

    def _points(self, policy: Policy) -> deque[float]:
        watch = self._watches.get(policy)
        return watch.points if watch else deque()

    def _rests(self, target: ScalableTarget, past: _Past, change: int, policy: Policy) -> bool:
        """Suspended, or in a cool-down. One after scaling in holds up no scaling out."""
        now = time.monotonic()
        if change > 0:
            return target.suspended.get("DynamicScalingOutSuspended", False) or now < past.out_at + policy.tracking.out_cooldown_s
        last = max(past.out_at, past.in_at)
        return target.suspended.get("DynamicScalingInSuspended", False) or now < last + policy.tracking.in_cooldown_s

    async def _scale(self, target: ScalableTarget, past: _Past, before: int, wanted: int, cause: str) -> None:
        activity = new_activity(target.resource, wanted, cause)
        self._service.activities.appendleft(activity)
        status, message = "Failed", "The runtime ended."
        try:
            await self._scalables.scale(target.resource, wanted)
            status, message = "Successful", f"Successfully set the capacity to {wanted}."
        except Exception as error:  # the task's edge: the activity tells it
            message = f"Failed to set the capacity to {wanted}: {sentence_of(error)}"
        finally:
            end_activity(activity, status, message)
            if wanted > before:
                past.out_at = time.monotonic()
            else:
                past.in_at = time.monotonic()
            for policy in target.policies.values():  # what was measured before says nothing of what is there now
                self._watches.pop(policy, None)
