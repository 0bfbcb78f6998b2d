"""Mixtral: Mistral whose every feed-forward layer is a mixture of experts."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.expert_names import GGUF_EXPERT_NAMES, GGUF_STACKS, MIXTRAL_EXPERT_NAMES, MIXTURE_STREAM
from headway.server.models.mixture_config import read_mixture
from headway.server.models.names import GGUF_LLAMA_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    windows = (raw.integer("sliding_window", 0),) * raw.size("num_hidden_layers")
    mixture = read_mixture(raw, "num_local_experts", intermediate_size=raw.size("intermediate_size"), renormalise=True)
    return read_decoder_config(raw, "mixtral", sliding_windows=windows, mixture=mixture)


FAMILY = Family(
    "mixtral",
    read_config,
    build_decoder,
    (*HF_NAMES, *MIXTRAL_EXPERT_NAMES),
    (*GGUF_LLAMA_NAMES, *GGUF_EXPERT_NAMES),
    MIXTURE_STREAM,
    stacks=GGUF_STACKS,
)
