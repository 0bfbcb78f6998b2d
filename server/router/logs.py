"""The log of a process of the router."""

from __future__ import annotations

from headway.server.config.logs import LogConfig
from headway.server.log_setup import set_up_logging
from headway.server.router.config import RouterConfig


def set_up_router_logging(config: RouterConfig, name: str) -> None:
    """``name`` stands in its lines."""
    secrets = [config.tls.ssl_keyfile_password] if config.tls.ssl_keyfile_password else []
    set_up_logging(LogConfig(log_level=config.logs.log_level, log_format=config.logs.log_format), name, secrets)
