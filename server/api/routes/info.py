"""GET /server_info: what this server was asked to be, and what its engine turned out to be."""

from __future__ import annotations

import json

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from headway import __version__
from headway.server.api.deps import state_of
from headway.server.api.media import JSON
from headway.server.api.protocol.life import ServerInfoRequest
from headway.server.api.routes.life import parameters
from headway.server.config.server import secrets_of
from headway.server.config.show import effective_options
from headway.server.log import masked


async def show_server_info(http: Request) -> Response:
    """Every effective option, secrets masked: as an object, or as a text of a line each."""
    request, state = await parameters(http, ServerInfoRequest), state_of(http)
    options = effective_options(state.config)
    is_text = request.config_format == "text"
    info = {
        "version": __version__,
        "vllm_config": "\n".join(f"{key}: {json.dumps(value)}" for key, value in options.items()) if is_text else options,
        "engine": None if state.engine.info is None else msgspec.to_builtins(state.engine.info),
    }
    # A secret may also stand in the value of another option: in a URL, say.
    return Response(masked(json.dumps(info), secrets_of(state.config)), media_type=JSON)
