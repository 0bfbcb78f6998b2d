"""The composition root of `headway local`: what the options name is put together, served and ended. Needs aiohttp."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable

import uvloop

from headway.container.local.app import App
from headway.container.local.errors import PlatformError
from headway.container.local.faults import Faults
from headway.container.local.one_endpoint import OneEndpoint
from headway.container.local.runtime.container import Container
from headway.container.local.runtime.members import check_endpoint_name
from headway.container.local.runtime.model_error import Place
from headway.container.local.runtime.parts import PartForm
from headway.container.local.runtime.runtime import Runtime
from headway.container.local.serving import LocalServer, bind
from headway.server.errors import ConfigError


def run(options: argparse.Namespace, faults: Faults, region: str, announce: Callable[[int], object]) -> int:
    """Until SIGINT or SIGTERM. ``announce`` hears the port once calls are taken. Raises ConfigError."""
    try:
        check_endpoint_name(options.endpoint_name)
    except PlatformError as problem:
        raise ConfigError([f"--endpoint-name: {problem}"]) from problem
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, faults, region, announce))
    return 0


async def _serve(options: argparse.Namespace, faults: Faults, region: str, announce: Callable[[int], object]) -> None:
    endpoint = OneEndpoint(options.endpoint_name, options.url.rstrip("/"))
    listener = bind(options.host, options.port)
    async with Container() as container:
        runtime = Runtime(endpoint, container, faults, Place(region), PartForm(options.split, options.coalesce_s))
        pinging = asyncio.create_task(endpoint.keep_pinging(faults))
        announce(listener.getsockname()[1])
        sys.stdout.flush()
        try:
            await LocalServer(App(runtime)).serve(sockets=[listener])
        finally:
            pinging.cancel()
            await asyncio.wait((pinging,))
