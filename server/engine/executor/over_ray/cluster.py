"""The Ray cluster that an engine's ranks are placed in: joined, or started for this host alone."""

from __future__ import annotations

import importlib.util
import logging
import socket
from dataclasses import dataclass

from headway.server.children import ignore_signals
from headway.server.engine.executor.over_ray.environment import send_no_statistics, started_here
from headway.server.engine.executor.over_ray.local_cluster import LocalCluster, start_local_cluster
from headway.server.errors import ConfigError

log = logging.getLogger(__name__)

NO_RAY = (
    "--distributed-executor-backend ray needs the package `ray`, which is not installed here: on every host of the cluster, "
    "pip install 'headway[ray]'; or use mp for the devices of one host"
)


_START_ONE = "no Ray cluster answers there; start one with `ray start --head`, and `ray start --address=HEAD:6379` on the other hosts"
_NONE_HERE = "--ray-address auto: no Ray cluster was started on this host; `ray start --head` starts one, --ray-address local does without"
_BY_TOKEN = "if it takes a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head"  # noqa: S105
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Host:
    """A living host of the cluster. ``resources`` has numbers of CPU, GPU and others that Ray counts."""

    node: str
    address: str
    resources: dict[str, float]


class Cluster:
    """Of which this process is a driver, until ``leave``."""

    def __init__(self, local: LocalCluster | None) -> None:
        self._local = local

    @property
    def is_local(self) -> bool:
        return self._local is not None

    def hosts(self) -> list[Host]:
        """Which there are now, this one first."""
        import ray

        living = [Host(each["NodeID"], each["NodeManagerAddress"], each["Resources"]) for each in ray.nodes() if each["Alive"]]
        own = ray.get_runtime_context().get_node_id()
        return sorted(living, key=lambda host: host.node != own)

    def leave(self) -> None:
        """What this process made there ends. Safe to repeat."""
        import ray

        ray.shutdown()
        if self._local is not None:
            self._local.end()


def joined_cluster(address: str | None, num_cpus: int) -> Cluster:
    """``address``: see --ray-address. One that is started for it has ``num_cpus``. Raises ConfigError."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError([NO_RAY])
    send_no_statistics()
    found = started_here() if address in (None, "auto") else address
    if address == "auto" and found is None:
        raise ConfigError([_NONE_HERE])
    if found not in (None, "local"):
        if _answers(found):
            return _connected(found, None)
        if address is not None:
            raise ConfigError([f"--ray-address {address}: {_START_ONE}"])
        log.warning("The Ray cluster at %s, which was started on this host, does not answer: another is started for this server", found)
    local = start_local_cluster(num_cpus)
    return _connected(local.address, local)


def _answers(address: str) -> bool:
    """Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, ValueError):
        return False
    return True


def _connected(address: str, local: LocalCluster | None) -> Cluster:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        cluster = Cluster(local)
        if (own := _own_address(cluster.hosts())) is not None:
            ray.shutdown()
            ray.init(address=address, log_to_driver=False, configure_logging=False, _node_ip_address=own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as problem:
        why = " ".join(str(problem).split())[:300]
        told = f"the Ray cluster at {address} can't be joined ({why}); {_BY_TOKEN}"
        raise ConfigError([f"--distributed-executor-backend ray: {told}"]) from problem
    ignore_signals()  # Ray takes SIGTERM
    log.info("Ranks are placed in %s", f"the Ray cluster at {address}" if local is None else "a Ray cluster of this host alone")
    return cluster


def _own_address(hosts: list[Host]) -> str | None:
    """Of this host, where Ray took another for it: it looks for its own processes, and sees another host's where containers share them."""
    if _is_ours(hosts[0].address):
        return None
    return next((host.address for host in hosts if _is_ours(host.address)), None)


def _is_ours(address: str) -> bool:
    try:
        with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            return True
    except OSError:
        return False
