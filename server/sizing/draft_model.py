"""What is decided about a draft model before it is loaded, beside the model that it drafts for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headway.server.config.plan import DeviceFacts, Plan, make_plan
from headway.server.config.server import ServerConfig
from headway.server.config.speculative import SpeculativeConfig
from headway.server.errors import ConfigError
from headway.server.loading.model_config import read_config
from headway.server.loading.use import use_of
from headway.server.models.base import DecoderConfig
from headway.server.models.eagle_config import EagleConfig
from headway.server.sizing.eagle import eagle_head, eagle_method_of
from headway.server.sizing.model import generating_facts, model_code
from headway.server.source.files import ModelFiles


@dataclass(frozen=True, slots=True)
class DraftSetup:
    """A draft model to be. ``config`` is that of the server, as far as it is for the draft model too."""

    files: ModelFiles
    config: ServerConfig
    plan: Plan  # of the same steps, blocks and context as the large model's
    eagle: EagleConfig | None = None  # where it is a head, which shares parts of the large model


def draft_setup(config: ServerConfig, files: ModelFiles, plan: Plan, target: DecoderConfig, device: DeviceFacts) -> DraftSetup:
    """``plan`` and ``target`` are the large model's. Raises ConfigError or ModelSourceError for a model that can't draft for it."""
    settings = config.speculative.settings
    assert settings is not None, "a model that drafts was asked for"
    if settings.method == "eagle" or settings.method == "eagle3":
        return _head_setup(config, files, plan, eagle_head(config, files, settings.method, plan, target), device)
    if (method := eagle_method_of(files)) is not None:
        raise ConfigError([f"--speculative-config: {files.name} is an EAGLE head, and no model of its own: set method to {method}"])
    own = _own_config(config, files, plan)
    if use_of(files, own.pooling.runner, own.pooling.convert) != "generate":
        raise ConfigError([f"--speculative-config: {files.name} generates no text, so it can't draft: name a model that does"])
    shape = read_config(files, code=model_code(own))
    problems = _problems(files.name, shape, target, plan)
    if problems:
        raise ConfigError([f"--speculative-config: the draft model {problem}" for problem in problems])
    return DraftSetup(files, own, make_plan(own, generating_facts(shape), device))


def _head_setup(config: ServerConfig, files: ModelFiles, plan: Plan, head: EagleConfig, device: DeviceFacts) -> DraftSetup:
    """Its steps are as wide as the large model's: it reads the drafts that were right too. What it computes in is that model's type,
    whose hidden states it reads."""
    own = _own_config(config, files, plan)
    model = own.model.model_copy(update={"dtype": plan.dtype, "quantization": "none"})
    own = own.model_copy(update={"model": model, "speculative": config.speculative})
    shape = replace(head.layer, max_model_len=plan.max_model_len)
    return DraftSetup(files, own, make_plan(own, generating_facts(shape), device), head)


def _problems(name: str, shape: DecoderConfig, target: DecoderConfig, plan: Plan) -> list[str]:
    found = []
    if shape.vocab_size != target.vocab_size:
        sizes = f"has {shape.vocab_size} tokens in its vocabulary, and the model {target.vocab_size}"
        found.append(f"{name} {sizes}: name one of the same family, whose tokens are the same")
    if shape.max_model_len < plan.max_model_len:
        lengths = f"was made for {shape.max_model_len} tokens, and the context has {plan.max_model_len}"
        found.append(f"{name} {lengths}: set --max-model-len {shape.max_model_len}, or name another one")
    return found


def _own_config(config: ServerConfig, files: ModelFiles, plan: Plan) -> ServerConfig:
    """Without what was said of the large model's files, and without drafts."""
    model = config.model.model_copy(
        update={
            "model": files.name,
            "quantization": None,
            "max_model_len": plan.max_model_len,
            "load_format": "dummy" if config.model.load_format == "dummy" else "auto",
            "hf_overrides": {},
            "rope_scaling": {},
            "rope_theta": None,
        }
    )
    asked = config.cache.kv_cache_dtype
    pages = asked if asked.startswith(("fp8", "int8")) else "auto"
    cache = config.cache.model_copy(update={"kv_cache_dtype": pages, "block_size": plan.page_size})
    return config.model_copy(update={"model": model, "cache": cache, "speculative": SpeculativeConfig()})
