"""DeepSeek-V3, V3.1 and R1: DeepSeek-V2 whose experts are scored by sigmoids and chosen with a bias that balances them."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig
from headway.server.models.deepseek import deepseek_family, read_deepseek_config
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


FAMILY = deepseek_family("deepseek_v3", read_config)
