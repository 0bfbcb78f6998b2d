"""What the log says once the server is ready: what it serves, where, on what, and one line to try."""

from __future__ import annotations

from shlex import quote

from headway import __version__
from headway.server.config.server import ServerConfig
from headway.server.types import EngineInfo
from headway.server.words import gib


def ready_banner(config: ServerConfig, served_name: str, info: EngineInfo, seconds: float) -> list[str]:
    """Its lines; no secret is in them."""
    url, option = _address(config)
    key = ' -H "Authorization: Bearer $API_KEY"' if config.security.has_keys else ""
    phases = ", ".join(f"{name} {took:.1f}" for name, took in info.phases.items())
    tokens = info.num_blocks * info.block_size
    return [
        f"Headway {__version__} is ready after {seconds:.1f} s ({phases})",
        f"  model    {served_name} ({info.architecture}, {info.weight_format}, {gib(info.weight_bytes, 2)} of weights)",
        f"  device   {info.device}",
        f"  context  {info.max_model_len} tokens; KV cache {tokens} tokens ({gib(info.kv_cache_bytes, 2)}, "
        f"blocks of {info.block_size}), up to {info.max_num_seqs} requests and {info.max_num_batched_tokens} tokens a step",
        f"  address  {url}{_shared(config.network.api_server_count)}  "
        "(/ping /invocations /v1/chat/completions /v1/completions /v1/models /metrics)",
        f"  try      curl{option} {url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
        '-d \'{"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}\'',
    ]


def _address(config: ServerConfig) -> tuple[str, str]:
    """(the server's URL, what curl needs to get there)."""
    network = config.network
    scheme = "https" if config.tls.is_on else "http"
    if network.uds is not None:
        return f"{scheme}://localhost", f" --unix-socket {quote(network.uds)}"
    host = network.host or "0.0.0.0"
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{network.port}", ""


def _shared(num_processes: int) -> str:
    return f", shared by {num_processes} API processes" if num_processes > 1 else ""
