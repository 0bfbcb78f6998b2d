"""What Ray runs on a rank's host: an actor that holds the rank's place, starts its process, and tells what it prints and how it ended."""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from headway import __version__
from headway.server.children import how_it_ended
from headway.server.engine.executor.over_ray.environment import name_interface, own_cache_directory
from headway.server.engine.executor.rank_messages import RankArguments
from headway.server.machine import num_oom_kills

_ENTRY = "headway.server.engine.executor.rank_entry"
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class HostFacts:
    """``gpus``: those that Ray gives to whoever asks, as the host counts them."""

    node: str
    address: str
    gpus: tuple[str, ...]
    version: str


class RankHost:
    def facts(self) -> HostFacts:
        import ray

        node = ray.get_runtime_context().get_node_id()
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        return HostFacts(node, ray.util.get_node_ip_address(), gpus, f"{__version__}, Python {platform.python_version()}")

    def run(self, arguments: RankArguments) -> Iterator[list[str] | str]:
        """Lines that the rank's process prints, as they come, and at last how it ended. The rank ends with the actor."""
        assert arguments.seat is not None
        name_interface(arguments.seat.meeting.own_address)
        before = num_oom_kills()
        ours, theirs = multiprocessing.Pipe()
        with subprocess.Popen(
            [sys.executable, "-P", "-m", _ENTRY, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            theirs.close()
            try:
                ours.send(replace(arguments, seat=replace(arguments.seat, cache_dir=own_cache_directory())))
                assert process.stdout is not None
                yield from _lines(process.stdout.fileno())
                yield how_it_ended(process.wait(), before)
            finally:
                ours.close()
                process.kill()


def _lines(pipe: int) -> Iterator[list[str]]:
    """Each time as many whole lines as there are."""
    rest = b""
    while data := os.read(pipe, _CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [line.decode(errors="replace") for line in lines]
    if rest:
        yield [rest.decode(errors="replace")]
