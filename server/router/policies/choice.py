"""Policies by the names of --policy."""

from __future__ import annotations

from collections.abc import Callable

from headway.server.router.policies.base import Policy
from headway.server.router.policies.least_load import LeastLoad
from headway.server.router.policies.prefix import PrefixHash
from headway.server.router.policies.round_robin import RoundRobin

POLICIES: dict[str, Callable[[], Policy]] = {"least-load": LeastLoad, "prefix": PrefixHash, "round-robin": RoundRobin}
