"""DeepSeek-V3, V3.1 and R1: DeepSeek-V2 whose experts are scored by sigmoids and chosen with a bias that balances them."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.deepseek import (
    DEEPSEEK_GGUF_NAMES,
    DEEPSEEK_NAMES,
    DEEPSEEK_STREAM,
    deepseek_gguf_values,
    read_deepseek_config,
)
from headway.server.models.expert_names import GGUF_STACKS, HF_STACKS
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    for key, known in (("topk_method", "noaux_tc"), ("scoring_func", "sigmoid")):
        if (found := raw.text(key, known)) != known:
            raise raw.refusal(f"{key} {found!r} is not supported; {known} is")
    return read_deepseek_config(
        raw,
        "deepseek_v3",
        scoring="sigmoid",
        renormalise=raw.flag("norm_topk_prob", True),
        num_groups=raw.size("n_group", 1),
        top_groups=raw.size("topk_group", 1),
        has_choice_bias=True,
    )


FAMILY = Family(
    "deepseek_v3",
    read_config,
    build_decoder,
    DEEPSEEK_NAMES,
    DEEPSEEK_GGUF_NAMES,
    DEEPSEEK_STREAM,
    gguf_values=deepseek_gguf_values,
    stacks=(*HF_STACKS, *GGUF_STACKS),
)
