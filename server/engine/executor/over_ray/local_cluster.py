"""A Ray cluster of this host alone, in a process that ends it when the engine is gone: `python -m ... FD NUM_CPUS`.

Ray's own processes would partly outlive an engine that is killed: its agents are children of its raylet.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import psutil

from headway.server.children import ignore_signals
from headway.server.engine.executor.over_ray.environment import keep_to_loopback, new_token, send_no_statistics
from headway.server.errors import ConfigError, sentence_of

_PR_SET_CHILD_SUBREAPER = 36
_START_S = 90.0
_END_S = 8.0
_STORE_BYTES = 80 * 2**20  # of shared memory: no more than Ray's least, since tensors don't pass through it


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """As the engine has it. ``end`` waits until nothing of it is left; it also ends with the engine's process."""

    address: str
    _process: subprocess.Popen[bytes]
    _line: Connection

    def end(self) -> None:
        self._line.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_local_cluster(num_cpus: int) -> LocalCluster:
    """With as many CPUs, whatever the host has, and all of its GPUs. Raises ConfigError."""
    token = new_token()
    keep_to_loopback(token)
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(num_cpus)]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    theirs.close()
    told = "it did not start"
    try:
        if ours.poll(_START_S):
            address, told = ours.recv()
            if address is not None:
                return LocalCluster(address, process, ours)
    except EOFError:
        told = "its process ended"
    LocalCluster("", process, ours).end()
    raise ConfigError([f"--distributed-executor-backend ray: a cluster of this host could not be started: {told}"])


def hold(line: Connection, num_cpus: int) -> None:
    """The process's life: a cluster from now until the other side of ``line`` is closed."""
    ignore_signals()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what Ray's own processes leave behind comes to this one
    send_no_statistics()
    directory = tempfile.mkdtemp(prefix="headway-ray-")
    try:
        line.send((_started(num_cpus, directory), ""))
    except Exception as problem:  # the process edge: the cause goes to the engine
        line.send((None, sentence_of(problem)))
    else:
        select.select([line], [], [])
    # Nothing is lost with them, and Ray's own end takes seconds.
    while children := psutil.Process().children(recursive=True):
        for child in children:
            child.kill()
        psutil.wait_procs(children)
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)  # without Ray's own end


def _started(num_cpus: int, directory: str) -> str:
    import ray

    context = ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=_STORE_BYTES,
        _temp_dir=directory,
    )
    ignore_signals()  # Ray takes SIGTERM
    address: str = context.address_info["gcs_address"]
    return address


if __name__ == "__main__":
    hold(Connection(int(sys.argv[1])), int(sys.argv[2]))
