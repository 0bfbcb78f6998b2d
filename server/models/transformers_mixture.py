"""What a config.json says of a mixture of experts that `transformers` runs, under any of the names that its classes have. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.models.base import MixtureConfig
from headway.server.models.mixture_config import qwen_dense_layers
from headway.server.models.raw_config import RawConfig

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_KS = ("num_experts_per_tok", "moe_topk", "moe_k")
_SIZES = ("moe_intermediate_size", "intermediate_size")
_SHARED_SIZES = ("shared_expert_intermediate_size", "shared_intermediate_size")
_SHARED_COUNTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_DENSE_COUNTS = ("first_k_dense_replace", "num_dense_layers")  # of the first layers
_QWENS = ("mlp_only_layers", "decoder_sparse_step")
_ERNIES = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
SHARED_KEYS = (*_SHARED_SIZES, *_SHARED_COUNTS)
_OF_LAYERS = (*_COUNTS, *_TOP_KS, *_SIZES, *SHARED_KEYS)
# All of these, for the table of what classes say by default.
MIXTURE_KEYS = (*_OF_LAYERS, *_DENSE_COUNTS, *_QWENS, *_ERNIES)


def read_any_mixture(model: RawConfig) -> MixtureConfig | None:
    """None of a model without experts. Sizes are those by which weights are estimated and cut; who is chosen is transformers' business.
    Raises ModelSourceError."""
    model = _with_one_for_all_layers(model)
    counts = [key for key in _COUNTS if model.get(key) is not None]
    if not counts or (num_experts := model.count(counts[0])) < 2:
        return None
    top_k = model.size(_first(model, _TOP_KS), 1)
    if top_k > num_experts:
        raise model.refusal(f"a token goes to {top_k} experts, and {counts[0]} is {num_experts}")
    inner = model.size(_first(model, _SIZES))
    shared = model.count(_first(model, _SHARED_SIZES)) or model.count(_first(model, _SHARED_COUNTS)) * inner
    return MixtureConfig(
        num_experts,
        top_k,
        inner,
        renormalise=False,
        shared_size=shared,
        has_shared_gate=False,
        dense_layers=_dense_layers(model),
    )


def _with_one_for_all_layers(model: RawConfig) -> RawConfig:
    """Some files have a number for each layer, and the same for all."""
    lists = {key: value for key in _OF_LAYERS if isinstance(value := model.get(key), list) and value}
    if unequal := [key for key, value in lists.items() if any(number != value[0] for number in value)]:
        raise model.refusal(f"{unequal[0]} differs between layers, which is not served through transformers")
    return model.with_values(**{key: value[0] for key, value in lists.items()})


def _first(model: RawConfig, keys: Sequence[str]) -> str:
    """That which the config has, else the usual one."""
    return next((key for key in keys if model.get(key) is not None), keys[0])


def _dense_layers(model: RawConfig) -> frozenset[int]:
    num_layers = model.size("num_hidden_layers")
    if isinstance(kinds := model.get("mlp_layer_types"), list):
        return frozenset(i for i, kind in enumerate(kinds[:num_layers]) if kind != "sparse")
    if all(model.get(key) is not None for key in _ERNIES):
        first, last, step = model.count(_ERNIES[0]), model.integer(_ERNIES[1]), model.size(_ERNIES[2])
        last = last if last >= 0 else num_layers - 1
        return frozenset(i for i in range(num_layers) if not first <= i <= last or (i + 1) % step)
    if any(model.get(key) is not None for key in _QWENS):
        return qwen_dense_layers(model)
    return frozenset(range(min(model.count(_first(model, _DENSE_COUNTS)), num_layers)))
