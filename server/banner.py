"""What the log says once the server is ready: what it serves, where, on what, and one line to try."""

from __future__ import annotations

from shlex import quote

from headway import __version__
from headway.server.config.server import ServerConfig
from headway.server.config.speculative import SpeculativeConfig
from headway.server.types import EngineInfo
from headway.server.words import gib, plural


def ready_banner(config: ServerConfig, served_name: str, info: EngineInfo, seconds: float) -> list[str]:
    """Its lines; no secret is in them."""
    url, option = _address(config)
    key = ' -H "Authorization: Bearer $API_KEY"' if config.security.has_keys else ""
    routes, body = _work(info)
    phases = ", ".join(f"{name} {took:.1f}" for name, took in info.phases.items())
    return [
        f"Headway {__version__} is ready after {seconds:.1f} s ({phases})",
        f"  model    {served_name} ({info.architecture}, {info.weight_format}, {gib(info.weight_bytes, 2)} of weights{_a_rank(config)})",
        f"  device   {info.device}{_engines(config.data_parallel.data_parallel_size)}",
        f"  context  {info.max_model_len} tokens; {_cache(info, _a_rank(config))}up to {info.max_num_seqs} requests "
        f"and {info.max_num_batched_tokens} tokens a step",
        *([f"  kernels  attention by {info.attention}"] if info.attention is not None else []),
        *_drafts(config.speculative, info),
        f"  address  {url}{_shared(config.network.api_server_count)}  (/ping /invocations {routes} /v1/models /metrics)",
        f"  try      curl{option} {url}{routes.split()[0]}{key} -H 'Content-Type: application/json' -d '{body}'",
    ]


def _work(info: EngineInfo) -> tuple[str, str]:
    """(routes, the body of a request to the first of them)."""
    if info.pooling is None:
        body = '{"messages": [{"role": "user", "content": "What is the capital of England?"}], "temperature": 0}'
        return "/v1/chat/completions /v1/completions", body
    if info.pooling.scores_pairs:
        return "/rerank /score /classify", '{"query": "What is the capital of France?", "documents": ["Paris is.", "It may rain."]}'
    if info.pooling.labels:
        return "/classify /pooling", '{"input": "What a wonderful film!"}'
    return "/v1/embeddings /score /rerank /pooling", '{"input": "The capital of France is Paris."}'


def _cache(info: EngineInfo, of: str) -> str:
    if not info.num_blocks:
        return ""
    num_tokens = info.num_blocks * info.block_size
    return f"KV cache {num_tokens} tokens ({gib(info.kv_cache_bytes, 2)}{of}, blocks of {info.block_size}), "


def _drafts(speculative: SpeculativeConfig, info: EngineInfo) -> list[str]:
    settings = speculative.settings
    if settings is None:
        return []
    most = plural(settings.num_speculative_tokens, "token")
    if (model := info.draft_model) is not None:
        memory = f"{gib(model.weight_bytes, 2)} of weights, {gib(model.kv_cache_bytes, 2)} of KV cache"
        by = f"by {model.name} ({model.architecture}, {model.weight_format}, {memory})"
    else:
        shortest, longest = settings.lookup_lengths
        by = f"by its last {shortest} to {longest} tokens"
    return [f"  drafts   {settings.method}: up to {most} a request and step, {by}"]


def _address(config: ServerConfig) -> tuple[str, str]:
    """(the server's URL, what curl needs to get there)."""
    network = config.network
    scheme = "https" if config.tls.is_on else "http"
    if network.uds is not None:
        return f"{scheme}://localhost", f" --unix-socket {quote(network.uds)}"
    host = network.host or "0.0.0.0"
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{network.port}", ""


def _engines(num_engines: int) -> str:
    return f", {num_engines} engines; what follows is of each" if num_engines > 1 else ""


def _a_rank(config: ServerConfig) -> str:
    return " a rank" if config.parallel.num_ranks > 1 else ""


def _shared(num_processes: int) -> str:
    return f", shared by {num_processes} API processes" if num_processes > 1 else ""
