"""NIXL's agent: memory registered with it, other agents known to it, and reads of their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headway.server.engine.kv.transfer.nixl.pages import Pages, Spans
from headway.server.engine.kv.transfer.nixl.requirements import agent_with_plugins
from headway.server.errors import ConfigError


class TransferFailed(Exception):
    """NIXL could not read. In one clause."""


@dataclass(slots=True)
class Read:
    """A read that was begun. ``handle`` is NIXL's."""

    handle: Any
    is_done: bool


class Agent:
    """Of one rank, with all of its pages. To be used from one thread at a time."""

    def __init__(self, name: str, backends: list[str], pages: Pages) -> None:
        """Raises ConfigError where NIXL, or one of the backends, is not there or has no way to another server."""
        self._nixl = agent_with_plugins(name, backends)
        self._memory = pages.memory
        try:
            for backend in backends:
                self._nixl.create_backend(backend)
            self._nixl.register_memory(pages.regions, pages.memory)
            self.metadata: bytes = self._nixl.get_agent_metadata()
        except Exception as problem:  # its errors have no base of their own
            asked = " and ".join(backends)
            why = f"NIXL can't move this server's KV with {asked} ({problem}): what stands above says more"
            raise ConfigError([f"--kv-transfer-config: backends: {why}; leave it out to get UCX"]) from None
        self._known: dict[bytes, str] = {}  # by metadata

    def know(self, metadata: bytes) -> str:
        """The name of the agent that this is of. Raises TransferFailed for what is of none."""
        name = self._known.get(metadata)
        if name is None:
            told = _attempt(self._nixl.add_remote_agent, metadata)
            name = self._known[metadata] = told.decode() if isinstance(told, bytes) else told
        return name

    def forget(self, metadata: bytes) -> None:
        """Ends the connections to it, and with them what is read from it."""
        name = self._known.pop(metadata, None)
        if name is not None:
            _attempt(self._nixl.remove_remote_agent, name)

    def is_known(self, metadata: bytes) -> bool:
        return metadata in self._known

    def begin_read(self, name: str, ours: Spans, theirs: Spans, memory: str) -> Read:
        """Of as many bytes as ``ours`` has in each of its pieces. Raises TransferFailed."""
        local = self._nixl.get_xfer_descs(ours, self._memory)
        remote = self._nixl.get_xfer_descs(theirs, memory)
        handle = _attempt(self._nixl.initialize_xfer, "READ", local, remote, name)
        read = Read(handle, is_done=False)
        self._take_state(read, _attempt(self._nixl.transfer, handle))
        return read

    def look(self, read: Read) -> bool:
        """Whether it is done. Raises TransferFailed, and then nothing of it goes on."""
        if not read.is_done:
            self._take_state(read, _attempt(self._nixl.check_xfer_state, read.handle))
        return read.is_done

    def _take_state(self, read: Read, state: str) -> None:
        if state == "PROC":
            return
        _attempt(self._nixl.release_xfer_handle, read.handle)
        if state != "DONE":
            raise TransferFailed(f"NIXL says {state}")
        read.is_done = True


def _attempt(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as problem:  # its errors have no base of their own
        raise TransferFailed(str(problem) or type(problem).__name__) from problem
