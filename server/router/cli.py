"""`headway router`: one address for many servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headway.server.config.logs import LogConfig
from headway.server.errors import HeadwayError
from headway.server.log_setup import set_up_logging
from headway.server.router.arguments import read_options
from headway.server.signals import EarlyStop


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs until SIGTERM or SIGINT. Raises ConfigError; HeadwayError without the extra packages."""
    EarlyStop().install()
    config = read_options(argv, environ)
    secrets = [config.tls.ssl_keyfile_password] if config.tls.ssl_keyfile_password else []
    set_up_logging(LogConfig(log_level=config.logs.log_level, log_format=config.logs.log_format), "router", secrets)
    try:
        from headway.server.router.running import run_router
    except ModuleNotFoundError as problem:
        if problem.name not in ("aiohttp", "yarl"):
            raise
        raise HeadwayError(f"headway router needs {problem.name}: pip install 'headway[router]'") from problem
    return run_router(config)
