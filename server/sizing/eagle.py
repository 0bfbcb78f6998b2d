"""What is decided about an EAGLE head before it is loaded: whether it is one, and whether it goes with the model."""

from __future__ import annotations

import logging

from headway.server.config.plan import Plan
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.loading.config_json import NO_OVERRIDES, architectures_in, raw_config, read_config_json
from headway.server.models.base import DecoderConfig
from headway.server.models.eagle_config import EagleConfig, EagleMethod, method_of, read_eagle_config
from headway.server.models.transformers_config import TransformersConfig
from headway.server.source.files import ModelFiles

log = logging.getLogger(__name__)


def eagle_head(config: ServerConfig, files: ModelFiles, method: EagleMethod, plan: Plan, target: DecoderConfig) -> EagleConfig:
    """``plan`` and ``target`` are the model's. Raises ConfigError or ModelSourceError for a head that can't draft for it."""
    if problems := _model_problems(config, files, plan, target):
        raise ConfigError([f"--speculative-config: {problem}" for problem in problems])
    values = read_config_json(files, NO_OVERRIDES)
    head = read_eagle_config(raw_config(files, values), architectures_in(values), method, target.num_layers)
    if problems := _head_problems(files.name, head, target):
        raise ConfigError([f"--speculative-config: the head {problem}" for problem in problems])
    if head.layer.max_model_len < plan.max_model_len:
        text = "The head %s was made for %d tokens, and the context has %d: behind them it may guess worse; answers stay the same"
        log.warning(text, files.name, head.layer.max_model_len, plan.max_model_len)
    return head


def eagle_method_of(files: ModelFiles) -> EagleMethod | None:
    """Of a model whose config.json says that it is a head."""
    return method_of(architectures_in(read_config_json(files, NO_OVERRIDES))) if files.kind == "safetensors" else None


def _model_problems(config: ServerConfig, files: ModelFiles, plan: Plan, target: DecoderConfig) -> list[str]:
    found = []
    if files.kind != "safetensors":
        found.append(f"{files.name} is a GGUF, and EAGLE heads are read from safetensors: name such a one, or use method ngram")
    if config.model.load_format == "dummy":
        found.append("--load-format dummy makes no EAGLE heads: leave it out, or use method ngram")
    if isinstance(target, TransformersConfig):
        found.append(
            "the model runs through transformers, which gives no hidden states to an EAGLE head: the families that Headway computes "
            "itself do, see docs/models.md; use method ngram or draft_model"
        )
    if plan.quantization == "int8":
        found.append(
            "8-bit weights on a CPU rotate the hidden states that an EAGLE head reads: use --quantization none or int4, or method ngram"
        )
    return found


def _head_problems(name: str, head: EagleConfig, target: DecoderConfig) -> list[str]:
    found = []
    if head.layer.hidden_size != target.hidden_size:
        sizes = f"reads hidden states of {head.layer.hidden_size} numbers, and the model's have {target.hidden_size}"
        found.append(f"{name} {sizes}: name one that was trained for this model")
    if head.layer.vocab_size != target.vocab_size:
        sizes = f"has {head.layer.vocab_size} tokens in its vocabulary, and the model {target.vocab_size}"
        found.append(f"{name} {sizes}: name one that was trained for this model")
    if head.draft_vocab_size > head.layer.vocab_size:
        found.append(
            f"{name} guesses {head.draft_vocab_size} tokens, more than the {head.layer.vocab_size} of its vocabulary: mend its config.json"
        )
    return found
