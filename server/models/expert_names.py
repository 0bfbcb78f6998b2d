"""What checkpoints call the weights of experts, each by itself or all in one tensor, and which weight of ours each of them fills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from headway.server.models.names import DECODER_STREAM, ResidualStream, WeightName

_MOE = "layers.{i}.moe"
_EXPERT = f"{_MOE}.routed.experts.{{e}}"


@dataclass(frozen=True, slots=True)
class ExpertStack:
    """A checkpoint's tensor that has an element for each expert of a layer ``{i}``, each the weights ``parts`` as a WeightName calls them.

    Two parts are one above the other, or take turns row by row where they ``alternate``. ``is_transposed``: elements are [K, N].
    ``scales``: what holds the powers of two of this one's blocks of MXFP4.
    """

    checkpoint: str
    parts: tuple[str, ...]
    alternate: bool = False
    is_transposed: bool = False
    scales: str = ""

    def expanded(self, num_layers: int) -> Iterator[ExpertStack]:
        """One for each layer."""
        for i in range(num_layers):
            checkpoint, scales, *parts = (name.replace("{i}", str(i)) for name in (self.checkpoint, self.scales, *self.parts))
            yield replace(self, checkpoint=checkpoint, scales=scales, parts=tuple(parts))


def _names(prefix: str, gate: str, up: str, down: str, kind: str = "weight", suffix: str = ".weight") -> tuple[WeightName, ...]:
    """Of the three matrices of an expert, or their biases."""
    return (
        WeightName(f"{prefix}{gate}{suffix}", f"{_EXPERT}.gate_up.{kind}", "gate"),
        WeightName(f"{prefix}{up}{suffix}", f"{_EXPERT}.gate_up.{kind}", "up"),
        WeightName(f"{prefix}{down}{suffix}", f"{_EXPERT}.down.{kind}"),
    )


_NORM = "layers.{i}.post_attention_norm.weight"
MIXTURE_STREAM = ResidualStream(
    embedding=DECODER_STREAM.embedding,
    readers={
        **DECODER_STREAM.readers,
        f"{_MOE}.router.weight": _NORM,
        f"{_EXPERT}.gate_up.weight": _NORM,
        f"{_MOE}.shared.gate_up.weight": _NORM,
        f"{_MOE}.shared.gate": _NORM,
    },
    writers=(*DECODER_STREAM.writers, f"{_EXPERT}.down.weight", f"{_EXPERT}.down.bias", f"{_MOE}.shared.down.weight"),
)

_HF = "model.layers.{i}.mlp"
_HF_ROUTER = WeightName(f"{_HF}.gate.weight", f"{_MOE}.router.weight")
HF_EXPERT_NAMES = (_HF_ROUTER, *_names(f"{_HF}.experts.{{e}}.", "gate_proj", "up_proj", "down_proj"))
HF_SHARED_NAMES = (
    WeightName(f"{_HF}.shared_expert.gate_proj.weight", f"{_MOE}.shared.gate_up.weight", "gate"),
    WeightName(f"{_HF}.shared_expert.up_proj.weight", f"{_MOE}.shared.gate_up.weight", "up"),
    WeightName(f"{_HF}.shared_expert.down_proj.weight", f"{_MOE}.shared.down.weight"),
    WeightName(f"{_HF}.shared_expert_gate.weight", f"{_MOE}.shared.gate"),
)
MIXTRAL_EXPERT_NAMES = (
    WeightName("model.layers.{i}.block_sparse_moe.gate.weight", f"{_MOE}.router.weight"),
    *_names("model.layers.{i}.block_sparse_moe.experts.{e}.", "w1", "w3", "w2"),
)
# gpt-oss has no tensor of one expert: these names stand for what its stacks hold.
GPT_OSS_NAMES = (
    WeightName(f"{_HF}.router.weight", f"{_MOE}.router.weight"),
    WeightName(f"{_HF}.router.bias", f"{_MOE}.router.bias"),
    *_names(f"{_HF}.experts.{{e}}.", "gate_proj", "up_proj", "down_proj"),
    *_names(f"{_HF}.experts.{{e}}.", "gate_proj", "up_proj", "down_proj", "bias", ".bias"),
)
GGUF_EXPERT_NAMES = (
    WeightName("blk.{i}.ffn_gate_inp.weight", f"{_MOE}.router.weight"),
    *_names("blk.{i}.", "ffn_gate", "ffn_up", "ffn_down", suffix=".{e}.weight"),
)
GGUF_EXPERT_BIASES = (
    WeightName("blk.{i}.ffn_gate_inp.bias", f"{_MOE}.router.bias"),
    *_names("blk.{i}.", "ffn_gate", "ffn_up", "ffn_down", "bias", ".{e}.bias"),
)
GGUF_SHARED_NAMES = (
    WeightName("blk.{i}.ffn_gate_shexp.weight", f"{_MOE}.shared.gate_up.weight", "gate"),
    WeightName("blk.{i}.ffn_up_shexp.weight", f"{_MOE}.shared.gate_up.weight", "up"),
    WeightName("blk.{i}.ffn_down_shexp.weight", f"{_MOE}.shared.down.weight"),
    WeightName("blk.{i}.ffn_gate_inp_shexp.weight", f"{_MOE}.shared.gate"),
)

_GATE_UP = (f"{_HF}.experts.{{e}}.gate_proj", f"{_HF}.experts.{{e}}.up_proj")
_DOWN = (f"{_HF}.experts.{{e}}.down_proj",)


def _with(suffix: str, *names: str) -> tuple[str, ...]:
    return tuple(name + suffix for name in names)


# As transformers 5 holds them, and saves them where it is asked to.
HF_STACKS = (
    ExpertStack(f"{_HF}.experts.gate_up_proj", _with(".weight", *_GATE_UP)),
    ExpertStack(f"{_HF}.experts.down_proj", _with(".weight", *_DOWN)),
)
GPT_OSS_STACKS = (
    ExpertStack(f"{_HF}.experts.gate_up_proj", _with(".weight", *_GATE_UP), alternate=True, is_transposed=True),
    ExpertStack(f"{_HF}.experts.down_proj", _with(".weight", *_DOWN), is_transposed=True),
    ExpertStack(f"{_HF}.experts.gate_up_proj_bias", _with(".bias", *_GATE_UP), alternate=True),
    ExpertStack(f"{_HF}.experts.down_proj_bias", _with(".bias", *_DOWN)),
    ExpertStack(
        f"{_HF}.experts.gate_up_proj_blocks", _with(".weight", *_GATE_UP), alternate=True, scales=f"{_HF}.experts.gate_up_proj_scales"
    ),
    ExpertStack(f"{_HF}.experts.down_proj_blocks", _with(".weight", *_DOWN), scales=f"{_HF}.experts.down_proj_scales"),
)
GGUF_STACKS = (
    *(
        ExpertStack(f"blk.{{i}}.ffn_{part}_exps.{kind}", (f"blk.{{i}}.ffn_{part}.{{e}}.{kind}",))
        for part in ("gate", "up", "down")
        for kind in ("weight", "bias")
    ),
    ExpertStack("blk.{i}.ffn_gate_up_exps.weight", ("blk.{i}.ffn_gate.{e}.weight", "blk.{i}.ffn_up.{e}.weight")),
)
