"""`headway router`: one address for many servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headway.server.errors import HeadwayError
from headway.server.router.arguments import read_options
from headway.server.router.logs import set_up_router_logging
from headway.server.signals import EarlyStop


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs until SIGTERM or SIGINT. Raises ConfigError; HeadwayError without the extra packages."""
    EarlyStop().install()
    config = read_options(argv, environ)
    set_up_router_logging(config, "router")
    try:
        from headway.server.router.running import run_router
    except ModuleNotFoundError as problem:
        if problem.name not in ("aiohttp", "yarl"):
            raise
        raise HeadwayError(f"headway router needs {problem.name}: pip install 'headway[router]'") from problem
    return run_router(config)
