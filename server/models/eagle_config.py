"""What an EAGLE head is, read from its config.json: one decoder layer that reads the hidden states of the model that it drafts for.

EAGLE (Li et al., arXiv:2401.15077) reads those that the model's head reads; EAGLE-2 has the same weights, and drafts a tree of them.
EAGLE-3 (Li et al., arXiv:2503.01840) reads what three layers of the model read, and has a head of its own over fewer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from headway.server.models.base import DecoderConfig
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import HF_NAMES, WeightName
from headway.server.models.raw_config import RawConfig

EagleMethod = Literal["eagle", "eagle3"]

_ARCHITECTURES: dict[EagleMethod, tuple[str, ...]] = {
    "eagle": ("EagleLlamaForCausalLM", "LlamaForCausalLMEagle", "LlamaForCausalLM"),
    "eagle3": ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"),
}
# Settings of other heads, which compute otherwise where these are set.
_OTHERWISE = ("use_mtp_layernorm", "parallel_drafting")

# Of a checkpoint in which the layer is "layers.0".
NAMES = (
    *(replace(name, checkpoint=name.checkpoint.removeprefix("model.")) for name in HF_NAMES),
    WeightName("layers.{i}.hidden_norm.weight", "layers.{i}.hidden_norm.weight"),
    WeightName("input_norm.weight", "read_norm.weight"),
    *(WeightName(f"fc_norm.{at}.weight", f"read_norms.{at}.weight") for at in range(3)),
    WeightName("fc.weight", "fc.weight"),
    WeightName("fc.bias", "fc.bias"),
)


@dataclass(frozen=True, slots=True)
class EagleConfig:
    """A head, and what it takes from its model. ``layer``: the shape of its only one, with the model's hidden size and vocabulary."""

    method: EagleMethod
    layer: DecoderConfig
    draft_vocab_size: int  # tokens that it can guess
    tapped: tuple[int, ...] = ()  # layers of the model whose inputs EAGLE-3 reads
    norm_before_residual: bool = False  # whether EAGLE-3's layer adds to what its norm gives, not to what that reads
    norm_before_fc: bool = False  # a norm of all that it reads of a token, or of each layer's share
    fc_norm: bool = False
    norm_output: bool = False  # whether it reads its own output behind its last norm, not before
    has_fc_bias: bool = False  # these three are seen in its checkpoint
    has_embedding: bool = False
    has_head: bool = True  # of its own, in EAGLE-3


def method_of(architectures: list[str]) -> EagleMethod | None:
    """Of a head that says so; EAGLE's first ones say that they are a Llama."""
    for method, names in _ARCHITECTURES.items():
        if any(name in names and "agle" in name for name in architectures):
            return method
    return None


def read_eagle_config(raw: RawConfig, architectures: list[str], method: EagleMethod, num_layers: int) -> EagleConfig:
    """``num_layers`` are the model's. Raises ModelSourceError for what is no such head, or one that computes otherwise."""
    known = _ARCHITECTURES[method]
    if not any(name in known for name in architectures):
        found = " / ".join(architectures) or "missing"
        raise raw.refusal(f"architectures is {found}, and method {method} takes {', '.join(known)}")
    nested = raw.get("transformer_layer_config")
    is_speculators = isinstance(nested, dict)  # the format of the project of that name: the layer's shape stands apart
    layer_raw = RawConfig({**raw.values, **nested}, raw.origin) if isinstance(nested, dict) else raw
    own = raw.get("eagle_config") or {}
    if not isinstance(own, dict):
        raise raw.refusal(f"eagle_config must be an object, not {own!r}")
    for key in _OTHERWISE:
        if raw.get(key) or own.get(key):
            raise raw.refusal(f"{key} is set, and such heads are not supported")
    if (count := layer_raw.size("num_hidden_layers", 1)) != 1:
        raise raw.refusal(f"num_hidden_layers is {count}, and heads of one layer are supported")
    layer = read_decoder_config(layer_raw, method, num_layers=1, tie_word_embeddings=False, mlp_bias=layer_raw.flag("mlp_bias"))
    if layer.scheme is not None:
        raise raw.refusal("its weights are quantised, and heads are supported in bf16, fp16 and fp32")
    if method == "eagle":
        return EagleConfig(method, layer, layer.vocab_size)
    return EagleConfig(
        method,
        layer,
        draft_vocab_size=raw.size("draft_vocab_size", layer.vocab_size),
        tapped=_tapped(raw, RawConfig(own, raw.origin), num_layers),
        norm_before_residual=raw.flag("norm_before_residual", is_speculators),
        norm_before_fc=_is_set("norm_before_fc", raw, own),
        fc_norm=_is_set("fc_norm", raw, own),
        norm_output=_is_set("norm_output", raw, own),
    )


def _is_set(key: str, raw: RawConfig, own: dict[str, Any]) -> bool:
    """At the top, or in ``eagle_config``."""
    return raw.flag(key) or RawConfig(own, raw.origin).flag(key)


def _tapped(raw: RawConfig, own: RawConfig, num_layers: int) -> tuple[int, ...]:
    """Three of them, in the order in which they are computed. Beside ``eagle_config`` the numbers are of layers that read what is taken;
    in it, of those that give it."""
    key = "eagle_aux_hidden_state_layer_ids"
    nested, beside = own.get(key), raw.get(key)
    asked = [number + 1 for number in _numbers(own, key)] if nested else _numbers(raw, key) if beside else None
    found = sorted(set(asked if asked is not None else (2, num_layers // 2, num_layers - 3)))
    if len(found) != 3 or found[0] < 0 or found[-1] >= num_layers:
        said = f"{key} is {nested or beside}" if asked is not None else f"{key} is missing"
        raise raw.refusal(f"{said}, which gives no three of the model's {num_layers} layers")
    return tuple(found)


def _numbers(raw: RawConfig, key: str) -> list[int]:
    values = raw.get(key)
    if not isinstance(values, list) or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise raw.refusal(f"{key} must be a list of whole numbers, not {values!r}")
    return values
