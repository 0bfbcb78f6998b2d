"""`system_fingerprint`: a text that changes with what computes the answers."""

from __future__ import annotations

import hashlib
import json

from headway import __version__
from headway.server.config.server import ServerConfig
from headway.server.types import EngineInfo


def fingerprint_of(config: ServerConfig, info: EngineInfo) -> str | None:
    """As --fingerprint-mode says; None where none is told."""
    match config.http.fingerprint_mode:
        case "none":
            return None
        case "custom":
            return config.http.fingerprint_value
        case "hash":
            return f"headway-{__version__}-{_hash(config, info)}"
    parallel = config.parallel
    sizes = {"pcp": parallel.prefill_context_parallel_size, "pp": parallel.pipeline_parallel_size}
    others = "".join(f"-{name}{size}" for name, size in sizes.items() if size > 1)
    return f"headway-{__version__}-tp{parallel.tensor_parallel_size}{others}-{_hash(config, info)}"


def _hash(config: ServerConfig, info: EngineInfo) -> str:
    """Of all that an answer's tokens depend on beside the request. No secret is in it."""
    model, chat = config.model, config.chat
    facts = [
        *(model.model, model.revision, model.tokenizer, model.tokenizer_revision, model.config_overrides, model.seed),
        *(model.generation_config, model.override_generation_config),
        *(chat.chat_template, chat.chat_template_content_format, chat.default_chat_template_kwargs),
        *(info.device, info.architecture, info.dtype, info.weight_format, info.max_model_len),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
