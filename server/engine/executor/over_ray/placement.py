"""An engine's ranks on the hosts of a Ray cluster: room taken for all of them together, rank 0's on the engine's own host."""

from __future__ import annotations

import logging
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from headway.server.config.server import ServerConfig
from headway.server.distributed.meeting import Meeting, NetworkMeeting
from headway.server.engine.executor.over_ray.cluster import Host, joined_cluster
from headway.server.engine.executor.over_ray.door import Door
from headway.server.engine.executor.over_ray.environment import name_interface, visible_index
from headway.server.engine.executor.over_ray.host import HostFacts, RankHost
from headway.server.engine.executor.over_ray.rank import RayRank
from headway.server.engine.executor.rank import Rank
from headway.server.engine.executor.rank_messages import RankArguments, Seat
from headway.server.errors import ConfigError, RankDied
from headway.server.words import plural

log = logging.getLogger(__name__)

_BACKEND = "--distributed-executor-backend ray"
_ROOM_S = 300.0  # hosts of a cluster may still be joining, or have to be started by its autoscaler
_TOLD_EVERY_S = 10.0
_HOSTS_S = 120.0  # until every host has started an actor


class RayPlacement:
    """See Placement."""

    def __init__(self, config: ServerConfig) -> None:
        """Waits until the cluster has room."""
        self._size = config.parallel.num_ranks
        self._asked = " or ".join(each.split()[0] for each in config.parallel.asked)
        self._unit = "GPU" if config.model.device != "cpu" and torch.cuda.is_available() else "CPU"
        self._stdout = config.logs.log_stream == "stdout"
        self._cluster = joined_cluster(config.parallel.ray_address, self._size)
        self._group: Any = None
        self._listener: socket.socket | None = None
        try:
            if self._cluster.is_local and self._unit == "GPU" and config.data_parallel.data_parallel_size > 1:
                raise ConfigError(["--data-parallel-size with Ray: the engines share a cluster; start it first with `ray start --head`"])
            own = self._cluster.hosts()[0]
            self._group = self._room(own)
            self._actors, self._facts = _by_host(*self._started_hosts())
            self._address = config.parallel.host_ip or own.address
        except BaseException:
            self.release()
            raise

    @property
    def gpu_index(self) -> int:
        return visible_index(self._facts[0].gpus[0]) if self._unit == "GPU" else 0

    def num_devices(self, device: torch.device) -> int | None:
        return self._size if device.type == "cuda" else None

    def start(self, arguments: Sequence[RankArguments]) -> tuple[Sequence[Rank], Meeting | None]:
        if not arguments:
            return [], None
        door = Door(self._address)
        self._listener = socket.create_server((self._address, 0))
        own = NetworkMeeting(self._address, self._listener.getsockname()[1], secrets.token_hex(16), self._address)
        stream = sys.stdout if self._stdout else sys.stderr
        ranks = {each.rank: RayRank(self._actors[each.rank], self._seated(each, own, door), stream) for each in arguments}

        def check() -> None:
            for rank in ranks.values():
                if rank.ended is not None:
                    raise RankDied(f"rank {rank.rank} {rank.ended}")

        try:
            for index, (link, hello) in door.admit(set(ranks), check).items():
                ranks[index].reached(link, hello)
        except BaseException:
            for rank in ranks.values():
                rank.end(patience_s=0)
            raise
        name_interface(self._address)
        return list(ranks.values()), replace(own, listener=self._listener.detach())

    def release(self) -> None:
        import ray

        if ray.is_initialized() and self._group is not None:
            ray.util.remove_placement_group(self._group)  # and the actors in it
        self._group = None
        if self._listener is not None:
            self._listener.close()
        self._cluster.leave()

    def _seated(self, arguments: RankArguments, own: NetworkMeeting, door: Door) -> RankArguments:
        facts = self._facts[arguments.rank]
        is_elsewhere = facts.node != self._facts[0].node
        meeting = replace(own, own_address=facts.address if is_elsewhere else self._address)
        return replace(arguments, seat=Seat(meeting, door.address, door.credentials, 0, is_elsewhere))

    def _room(self, own: Host) -> Any:
        """A placement group with a bundle a rank, the first on this host."""
        from ray.util.placement_group import placement_group

        hosts = self._cluster.hosts()
        if own.resources.get(self._unit, 0) < 1:
            raise ConfigError([f"{_BACKEND}: this host ({own.address}) has no {self._unit} in the Ray cluster: serve from one that has"])
        if self._cluster.is_local and _num_units(hosts, self._unit) < self._size:
            raise ConfigError([self._no_room(hosts)])
        bundle = {self._unit: 1.0}
        group = placement_group([{**bundle, f"node:{own.address}": 0.001}, *[bundle] * (self._size - 1)], strategy="PACK")
        deadline = time.monotonic() + _ROOM_S
        while not group.wait(_TOLD_EVERY_S):
            told = self._no_room(self._cluster.hosts())
            if time.monotonic() > deadline:
                self._group = group
                raise ConfigError([told])
            log.warning("%s; waiting for more", told)
        return group

    def _no_room(self, hosts: list[Host]) -> str:
        there = ", ".join(f"{host.address}: {host.resources.get(self._unit, 0):.0f}" for host in hosts)
        total = _num_units(hosts, self._unit)
        if total >= self._size:
            return f"{plural(self._size, 'rank')} need as many {self._unit}s, and others use those of the Ray cluster ({there})"
        return (
            f"{plural(self._size, 'rank')} need as many {self._unit}s, and the Ray cluster has {total} ({there}): lower {self._asked}, "
            "or add hosts with `ray start --address`"
        )

    def _started_hosts(self) -> tuple[list[Any], list[HostFacts]]:
        """An actor in each bundle."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        needs = {"num_cpus": 0, "num_gpus": 1} if self._unit == "GPU" else {"num_cpus": 1}
        actor = ray.remote(RankHost)
        actors = [
            actor.options(**needs, max_restarts=0, scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, bundle)).remote()
            for bundle in range(self._size)
        ]
        try:
            facts = ray.get([each.facts.remote() for each in actors], timeout=_HOSTS_S)
        except ray.exceptions.RayError as problem:
            told = " ".join(str(problem).split())
            why = "Headway is not installed on one of them" if "No module named 'headway" in told else told[-300:]
            raise ConfigError([f"{_BACKEND}: hosts of the Ray cluster could not start ranks: {why}"]) from problem
        if others := {each.version for each in facts} - {facts[0].version}:
            here = facts[0].version
            raise ConfigError([f"every host of the Ray cluster must have the same version: here is {here}, elsewhere {', '.join(others)}"])
        return actors, facts


def _num_units(hosts: list[Host], unit: str) -> int:
    return int(sum(host.resources.get(unit, 0) for host in hosts))


def _by_host(actors: list[Any], facts: list[HostFacts]) -> tuple[list[Any], list[HostFacts]]:
    """Neighbouring ranks share a host, so that those that exchange most do; rank 0 stays the first."""
    nodes = list(dict.fromkeys(each.node for each in facts))
    order = sorted(range(len(facts)), key=lambda index: nodes.index(facts[index].node))
    return [actors[index] for index in order], [facts[index] for index in order]
