"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter: vLLM's, behind its switch."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from headway.server.api.adapters import AdapterRegistry
from headway.server.api.deps import state_of
from headway.server.api.protocol.adapters import LoadLoraAdapterRequest, UnloadLoraAdapterRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.body import read_request
from headway.server.errors import RequestError


async def load(http: Request) -> Response:
    adapters = _adapters(http)
    request = await read_request(http, lambda fields: parse_request(LoadLoraAdapterRequest, fields))
    name, path = request.lora_name, request.lora_path
    if request.load_inplace and adapters.find(name):
        await adapters.update(name, src=path, preload=True, pin=None, param="lora_path")
    else:
        await adapters.register(name, path, preload=True, pin=False, param="lora_path")
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


async def unload(http: Request) -> Response:
    adapters = _adapters(http)
    request = await read_request(http, lambda fields: parse_request(UnloadLoraAdapterRequest, fields))
    await adapters.unregister(request.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{request.lora_name}' removed successfully.")


def _adapters(http: Request) -> AdapterRegistry:
    state = state_of(http)
    state.adapters.check_enabled()
    if not state.config.lora.allow_runtime_lora_updating:
        raise RequestError("This route is off; start the server with --allow-runtime-lora-updating, or use /adapters.")
    state.ready_model()
    return state.adapters
