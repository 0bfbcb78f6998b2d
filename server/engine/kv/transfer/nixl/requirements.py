"""What a NixlConnector needs of this machine: NIXL with the backends that are named, a key file, an address to listen at. No torch: it is
asked for at the start of the server, before a model is fetched, and again by whoever uses it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headway.server.config.kv_transfer import KVTransferConfig
from headway.server.errors import ConfigError

_MISSING = "--kv-transfer-config with NixlConnector needs NIXL, which is not installed: pip install 'headway[kv]'"
_MIN_KEY_BYTES = 16
_MAX_KEY_BYTES = 64 * 1024


def check_requirements(transfer: KVTransferConfig, ranks: Iterable[int]) -> None:
    """``ranks``: those that are on this machine, by their numbers among the ranks of all engines. Raises ConfigError. Whether a backend
    finds its devices shows only when it is made, by the engine."""
    settings = transfer.settings
    if settings is None:
        return
    extra = settings.kv_connector_extra_config
    read_secret(extra.key_file)
    agent_with_plugins("headway-start", extra.backends)
    if settings.keeps:
        for rank in ranks:
            listener_at(transfer.nixl_side_channel_host, transfer.nixl_side_channel_port + rank).close()


def agent_with_plugins(name: str, backends: list[str]) -> Any:
    """NIXL's agent, without a backend yet, where those are known. Raises ConfigError."""
    try:
        from nixl_cu12 import nixl_agent, nixl_agent_config
    except ImportError:
        raise ConfigError([_MISSING]) from None
    logging.getLogger("nixl").setLevel(logging.WARNING)  # it tells of each agent at its own handler
    agent = nixl_agent(name, nixl_agent_config(backends=[]))
    known = sorted(agent.get_plugin_list())
    if missing := [backend for backend in backends if backend not in known]:
        raise ConfigError([f"--kv-transfer-config: NIXL has no backend {missing[0]} here, but {', '.join(known)}"])
    return agent


def read_secret(key_file: str | None) -> bytes:
    """What both servers know; nothing where there is no such file. Raises ConfigError."""
    if key_file is None:
        return b""
    where = f"--kv-transfer-config: key_file {key_file}"
    try:
        with Path(key_file).expanduser().open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as problem:  # RuntimeError: ~nobody; ValueError: a NUL in the path
        raise ConfigError([f"{where} can't be read: {getattr(problem, 'strerror', None) or problem}"]) from None
    if len(content) > _MAX_KEY_BYTES:
        raise ConfigError([f"{where} holds more than {_MAX_KEY_BYTES} bytes: name a file with a key alone"])
    secret = content.strip()
    if len(secret) < _MIN_KEY_BYTES:
        raise ConfigError([f"{where} holds {len(secret)} bytes: {_MIN_KEY_BYTES} at least are needed"])
    return secret


def listener_at(host: str, port: int) -> socket.socket:
    """Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except (OSError, UnicodeError) as problem:  # UnicodeError: no host has such a name
        where, why = f"{host}:{port}", str(getattr(problem, "strerror", None) or problem).partition(" (while")[0]
        raise ConfigError(
            [
                f"the KV side channel can't listen at {where} ({why}): set --nixl-side-channel-host to an address "
                "of this machine, and --nixl-side-channel-port to a free port"
            ]
        ) from None
