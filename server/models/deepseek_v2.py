"""DeepSeek-V2, V2-Lite and V2.5: attention over latents, and mixtures whose experts stand in groups behind dense layers."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig
from headway.server.models.deepseek import deepseek_family, read_deepseek_config
from headway.server.models.raw_config import RawConfig

_METHODS = ("greedy", "group_limited_greedy")


def read_config(raw: RawConfig) -> DecoderConfig:
    if (method := raw.text("topk_method", "greedy")) not in _METHODS:
        raise raw.refusal(f"topk_method {method!r} is not supported; {' and '.join(_METHODS)} are")
    if (scoring := raw.text("scoring_func", "softmax")) != "softmax":
        raise raw.refusal(f"scoring_func {scoring!r} is not supported; softmax is")
    if raw.flag("norm_topk_prob"):
        raise raw.refusal("norm_topk_prob is true, which is not supported for DeepSeek-V2")
    has_groups = method == "group_limited_greedy"
    return read_deepseek_config(
        raw,
        "deepseek_v2",
        renormalise=False,
        num_groups=raw.size("n_group") if has_groups else 1,
        top_groups=raw.size("topk_group") if has_groups else 1,
    )


FAMILY = deepseek_family("deepseek_v2", read_config)
