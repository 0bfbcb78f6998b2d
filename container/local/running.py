"""The composition root of `headway local`: what the options name is put together, served and ended. Needs aiohttp."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping

import uvloop

from headway.container.local.app import App
from headway.container.local.errors import PlatformError
from headway.container.local.faults import Faults
from headway.container.local.managed import managed
from headway.container.local.one_endpoint import OneEndpoint
from headway.container.local.runtime.container import Container
from headway.container.local.runtime.members import check_endpoint_name
from headway.container.local.runtime.model_error import Place
from headway.container.local.runtime.parts import PartForm
from headway.container.local.runtime.runtime import Runtime
from headway.container.local.serving import LocalServer, bind
from headway.container.local.storage import Storage, open_storage
from headway.container.local.targets import Targets
from headway.container.settings import Settings
from headway.server.errors import ConfigError

# Gets the text for clients once calls are taken: the port, and S3 and SNS if there are any.
Announce = Callable[[int, Storage | None], str]


def run(
    options: argparse.Namespace, settings: Settings | None, faults: Faults, region: str, announce: Announce, environ: Mapping[str, str]
) -> int:
    """Until SIGINT or SIGTERM. Raises ConfigError, HeadwayError."""
    try:
        check_endpoint_name(options.endpoint_name)
    except PlatformError as problem:
        raise ConfigError([f"--endpoint-name: {problem}"]) from problem
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.url is not None:
            runner.run(_serve_one(options, faults, region, announce))
        else:
            with open_storage(environ, options.s3_url, options.sns_url) as storage:
                runner.run(_serve_managed(options, settings, faults, region, storage, announce, environ))
    return 0


async def _serve_one(options: argparse.Namespace, faults: Faults, region: str, announce: Announce) -> None:
    endpoint = OneEndpoint(options.endpoint_name, options.url.rstrip("/"))
    async with Container() as container:
        pinging = asyncio.create_task(endpoint.keep_pinging(faults))
        try:
            app = App(_runtime(endpoint, container, options, faults, region), host=options.host)
            await _serve(app, options, lambda port: announce(port, None))
        finally:
            pinging.cancel()
            await asyncio.wait((pinging,))


async def _serve_managed(
    options: argparse.Namespace,
    settings: Settings | None,
    faults: Faults,
    region: str,
    storage: Storage,
    announce: Announce,
    environ: Mapping[str, str],
) -> None:
    async with Container() as container, managed(options, settings, faults, region, storage, container, environ) as parts:
        runtime = _runtime(parts.targets, container, options, faults, region)
        await _serve(App(runtime, parts.services, parts.submit, options.host), options, lambda port: announce(port, storage))


def _runtime(targets: Targets, container: Container, options: argparse.Namespace, faults: Faults, region: str) -> Runtime:
    return Runtime(targets, container, faults, Place(region), PartForm(options.split, options.coalesce_s))


async def _serve(app: App, options: argparse.Namespace, announce: Callable[[int], str]) -> None:
    listener = bind(options.host, options.port)
    sys.stdout.write(announce(listener.getsockname()[1]))
    sys.stdout.flush()
    await LocalServer(app).serve(sockets=[listener])
