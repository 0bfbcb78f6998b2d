"""What checkpoints call the weights of a decoder, and which weight of ours each of them fills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any


@dataclass(frozen=True, slots=True)
class WeightName:
    """``{i}`` stands for the layer, ``{e}`` for the expert. ``part`` names the place within a fused weight. A weight that a model
    lacks is left out.

    ``parts``: those that the checkpoint has as one tensor, in the order of its rows. ``is_transposed``: it has columns where we have rows.
    ``plus`` is added to its values: Gemma keeps what its norms differ from 1.
    ``is_retied``: a tied head as a weight of its own. It is filled with the values of the embedding's table, and not with its blocks: so it
    is rounded as where the two are one.
    ``interleaved_heads``: "q" or "k" where the rows of each head were reordered for interleaved rotary embedding (llama.cpp's
    converter does so for the llama architecture) and must be put back.
    """

    checkpoint: str
    weight: str
    part: str = ""
    interleaved_heads: str = ""
    parts: tuple[str, ...] = ()
    is_transposed: bool = False
    plus: float = 0.0
    is_retied: bool = False

    @property
    def all_parts(self) -> tuple[str, ...]:
        return self.parts or (self.part,)

    def expanded(self, num_layers: int, num_experts: int) -> Iterator[WeightName]:
        """One for each layer and expert that it stands for."""
        layers, experts = ((range(count) if key in self.weight else (0,)) for key, count in (("{i}", num_layers), ("{e}", num_experts)))
        for i, e in product(layers, experts):
            numbers = (("{i}", str(i)), ("{e}", str(e)))
            yield replace(self, checkpoint=_numbered(self.checkpoint, numbers), weight=_numbered(self.weight, numbers))


@dataclass(frozen=True, slots=True)
class ResidualStream:
    """The weights, by our names, that touch the residual stream of a decoder whose stream may be rotated (loading/rotation.py).

    That is so where nothing else touches it, each norm is a plain RMS norm over the whole stream, and only the named linears read
    what a norm gives. ``readers`` maps a linear to the norm before it; ``writers`` are the linears, and their biases, added to the
    stream.
    """

    embedding: str
    readers: dict[str, str]
    writers: tuple[str, ...]


# What a checkpoint may have as one tensor.
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"

DECODER_STREAM = ResidualStream(
    embedding=EMBEDDING,
    readers={
        "layers.{i}.qkv.weight": "layers.{i}.input_norm.weight",
        "layers.{i}.gate_up.weight": "layers.{i}.post_attention_norm.weight",
        HEAD: "norm.weight",
    },
    writers=("layers.{i}.o.weight", "layers.{i}.o.bias", "layers.{i}.down.weight", "layers.{i}.down.bias"),
)

HF_NAMES = (
    WeightName("model.embed_tokens.weight", "embed_tokens.weight"),
    WeightName("model.layers.{i}.input_layernorm.weight", "layers.{i}.input_norm.weight"),
    WeightName("model.layers.{i}.self_attn.q_proj.weight", "layers.{i}.qkv.weight", "q"),
    WeightName("model.layers.{i}.self_attn.k_proj.weight", "layers.{i}.qkv.weight", "k"),
    WeightName("model.layers.{i}.self_attn.v_proj.weight", "layers.{i}.qkv.weight", "v"),
    WeightName("model.layers.{i}.self_attn.q_proj.bias", "layers.{i}.qkv.bias", "q"),
    WeightName("model.layers.{i}.self_attn.k_proj.bias", "layers.{i}.qkv.bias", "k"),
    WeightName("model.layers.{i}.self_attn.v_proj.bias", "layers.{i}.qkv.bias", "v"),
    WeightName("model.layers.{i}.self_attn.q_norm.weight", "layers.{i}.attention.q_norm.weight"),
    WeightName("model.layers.{i}.self_attn.k_norm.weight", "layers.{i}.attention.k_norm.weight"),
    WeightName("model.layers.{i}.self_attn.o_proj.weight", "layers.{i}.o.weight"),
    WeightName("model.layers.{i}.self_attn.o_proj.bias", "layers.{i}.o.bias"),
    WeightName("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.post_attention_norm.weight"),
    WeightName("model.layers.{i}.mlp.gate_proj.weight", "layers.{i}.gate_up.weight", "gate"),
    WeightName("model.layers.{i}.mlp.up_proj.weight", "layers.{i}.gate_up.weight", "up"),
    WeightName("model.layers.{i}.mlp.gate_proj.bias", "layers.{i}.gate_up.bias", "gate"),
    WeightName("model.layers.{i}.mlp.up_proj.bias", "layers.{i}.gate_up.bias", "up"),
    WeightName("model.layers.{i}.mlp.down_proj.weight", "layers.{i}.down.weight"),
    WeightName("model.layers.{i}.mlp.down_proj.bias", "layers.{i}.down.bias"),
    WeightName("model.norm.weight", "norm.weight"),
    WeightName("lm_head.weight", "lm_head.weight"),
)

GGUF_NAMES = (
    WeightName("token_embd.weight", "embed_tokens.weight"),
    WeightName("blk.{i}.attn_norm.weight", "layers.{i}.input_norm.weight"),
    WeightName("blk.{i}.attn_q.weight", "layers.{i}.qkv.weight", "q"),
    WeightName("blk.{i}.attn_k.weight", "layers.{i}.qkv.weight", "k"),
    WeightName("blk.{i}.attn_v.weight", "layers.{i}.qkv.weight", "v"),
    WeightName("blk.{i}.attn_q.bias", "layers.{i}.qkv.bias", "q"),
    WeightName("blk.{i}.attn_k.bias", "layers.{i}.qkv.bias", "k"),
    WeightName("blk.{i}.attn_v.bias", "layers.{i}.qkv.bias", "v"),
    WeightName("blk.{i}.attn_q_norm.weight", "layers.{i}.attention.q_norm.weight"),
    WeightName("blk.{i}.attn_k_norm.weight", "layers.{i}.attention.k_norm.weight"),
    WeightName("blk.{i}.attn_output.weight", "layers.{i}.o.weight"),
    WeightName("blk.{i}.attn_output.bias", "layers.{i}.o.bias"),
    WeightName("blk.{i}.ffn_norm.weight", "layers.{i}.post_attention_norm.weight"),
    WeightName("blk.{i}.ffn_gate.weight", "layers.{i}.gate_up.weight", "gate"),
    WeightName("blk.{i}.ffn_up.weight", "layers.{i}.gate_up.weight", "up"),
    WeightName("blk.{i}.ffn_gate.bias", "layers.{i}.gate_up.bias", "gate"),
    WeightName("blk.{i}.ffn_up.bias", "layers.{i}.gate_up.bias", "up"),
    WeightName("blk.{i}.ffn_down.weight", "layers.{i}.down.weight"),
    WeightName("blk.{i}.ffn_down.bias", "layers.{i}.down.bias"),
    WeightName("output_norm.weight", "norm.weight"),
    WeightName("output.weight", "lm_head.weight"),
)

_REORDERED = {"attn_q.": "q", "attn_k.": "k"}

# The llama architecture's (llama.cpp's own order of rotary pairs): Llama and Mistral.
GGUF_LLAMA_NAMES = tuple(
    WeightName(name.checkpoint, name.weight, name.part, next((part for key, part in _REORDERED.items() if key in name.checkpoint), ""))
    for name in GGUF_NAMES
)


def without(names: tuple[WeightName, ...], *words: str) -> tuple[WeightName, ...]:
    """``names`` but those of weights with one of the words in their names."""
    return tuple(name for name in names if not any(word in name.weight for word in words))


def biased(checkpoint: str, weight: str, **facts: Any) -> tuple[WeightName, WeightName]:
    """The names of a layer's weight and bias; a bias is never transposed."""
    bias = {key: value for key, value in facts.items() if key != "is_transposed"}
    return WeightName(f"{checkpoint}.weight", f"{weight}.weight", **facts), WeightName(f"{checkpoint}.bias", f"{weight}.bias", **bias)


def _numbered(name: str, numbers: Iterable[tuple[str, str]]) -> str:
    for key, number in numbers:
        name = name.replace(key, number)
    return name
