"""The composition root of `headway local`: what the options name is put together, served and ended. Needs aiohttp."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping

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
from headway.container.local.stopping import Stop, interruptible, until_stopped
from headway.container.local.storage import Storage, open_storage
from headway.container.local.targets import Targets
from headway.container.settings import Settings
from headway.server.errors import ConfigError
from headway.server.signals import ignore_further_signals

# Gets the text for clients once calls are taken: the port, and S3 and SNS if there are any.
Announce = Callable[[int, Storage | None], str]


def run(
    options: argparse.Namespace, settings: Settings | None, faults: Faults, region: str, announce: Announce, environ: Mapping[str, str]
) -> int:
    """Until SIGINT or SIGTERM; the exit status. The port is taken before anything is started. Raises ConfigError, HeadwayError."""
    try:
        check_endpoint_name(options.endpoint_name)
    except PlatformError as problem:
        raise ConfigError([f"--endpoint-name: {problem}"]) from problem
    listener = bind(options.host, options.port)
    with contextlib.closing(listener), interruptible(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.url is not None:
            status = runner.run(until_stopped(lambda stop: _serve_one(options, faults, region, listener, announce, stop)))
        else:
            with open_storage(environ, options.s3_url, options.sns_url) as storage:

                def work(stop: Stop) -> Coroutine[None, None, None]:
                    return _serve_managed(options, settings, faults, region, storage, listener, announce, environ, stop)

                status = runner.run(until_stopped(work))
    ignore_further_signals()
    return status


async def _serve_one(
    options: argparse.Namespace, faults: Faults, region: str, listener: socket.socket, announce: Announce, stop: Stop
) -> None:
    endpoint = OneEndpoint(options.endpoint_name, options.url.rstrip("/"))
    async with Container() as container:
        pinging = asyncio.create_task(endpoint.keep_pinging(faults))
        try:
            app = App(_runtime(endpoint, container, options, faults, region), host=options.host)
            await _serve(app, listener, lambda port: announce(port, None), stop)
        finally:
            pinging.cancel()
            await asyncio.wait((pinging,))


async def _serve_managed(
    options: argparse.Namespace,
    settings: Settings | None,
    faults: Faults,
    region: str,
    storage: Storage,
    listener: socket.socket,
    announce: Announce,
    environ: Mapping[str, str],
    stop: Stop,
) -> None:
    async with Container() as container, managed(options, settings, faults, region, storage, container, environ) as parts:
        stop.hurried_by(parts.hurry)
        app = App(_runtime(parts.targets, container, options, faults, region), parts.services, parts.submit, options.host)
        await _serve(app, listener, lambda port: announce(port, storage), stop)
        sys.stderr.write("stopping; another signal kills the copies that do not end\n")


def _runtime(targets: Targets, container: Container, options: argparse.Namespace, faults: Faults, region: str) -> Runtime:
    return Runtime(targets, container, faults, Place(region), PartForm(options.split, options.coalesce_s))


async def _serve(app: App, listener: socket.socket, announce: Callable[[int], str], stop: Stop) -> None:
    server = LocalServer(app)
    stop.by(server.end)
    stop.hurried_by(server.hurry)
    sys.stdout.write(announce(listener.getsockname()[1]))
    sys.stdout.flush()
    await server.serve(sockets=[listener])
