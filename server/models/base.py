"""What a model is to the rest of the engine: its config in our own words, and the two calls of a step. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.layers.latent_config import LatentConfig
from headway.server.layers.quant.scheme import WeightScheme
from headway.server.layers.rope_config import RopeConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from headway.kernels.attention_library import AttentionLibrary
    from headway.server.distributed.groups import TensorParallelGroup
    from headway.server.layers.forward import ForwardBatch, LayerKV
    from headway.server.layers.quant.method import LinearMethod
    from headway.server.layers.weight import Layer, Weight
    from headway.server.models.expert_names import ExpertStack
    from headway.server.models.names import ResidualStream, WeightName
    from headway.server.models.raw_config import RawConfig


# Norms of the residual stream: "exact_rms" has its weights in fp32, and multiplies by them before it rounds.
NormKind = Literal["rms", "exact_rms", "layer"]
# Where a layer's two branches have their norms: before them; behind them; before and behind; or one before both, which read the same.
BlockKind = Literal["pre", "post", "sandwich", "parallel"]


@dataclass(frozen=True, slots=True)
class MixtureConfig:
    """The feed-forward layers of a decoder that are mixtures of experts. Sizes are of the whole model, not of a rank."""

    num_experts: int
    top_k: int  # experts that a token goes to
    intermediate_size: int  # of one expert
    renormalise: bool  # whether the weights of a token's experts add up to 1
    shared_size: int = 0  # intermediate size of the expert that every token goes to; 0: there is none
    router_bias: bool = False
    expert_bias: bool = False
    swiglu_limit: float = 0.0  # of the clamped gate in silu's place, see kernels/moe.py; 0: silu
    swiglu_alpha: float = 0.0
    has_shared_gate: bool = True  # whether a gate says how much of the shared expert a token takes
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    num_groups: int = 1  # of experts that are neighbours, of which a token's are in ``top_groups``
    top_groups: int = 1
    has_choice_bias: bool = False  # added to the scores that choose experts, and not to their weights
    routed_scale: float = 1.0  # of the weights of a token's experts
    is_exact_router: bool = False  # its weights and products are fp32, whatever the others are
    dense_layers: frozenset[int] = frozenset()  # whose feed-forward layer is a plain one


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder, normalised from config.json or GGUF metadata. Sizes are of the whole model, not of a rank."""

    architecture: str  # the family: "llama", "qwen2"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeConfig
    max_model_len: int  # longest context that the model was made for, in tokens
    checkpoint_dtype: str  # "float32" | "bfloat16" | "float16"
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    hidden_act: str = "silu"
    is_gated: bool = True  # the feed-forward layer: a gate and what it lets through, else one projection up
    norm: NormKind = "rms"
    norm_bias: bool = False
    block: BlockKind = "pre"
    has_whole_qk_norm: bool = False  # with qk_norm: of all heads together
    sliding_windows: tuple[int, ...] = ()  # one a layer, 0: attends to everything; empty: all 0
    ropes: tuple[RopeConfig, ...] = ()  # one a layer; empty: all have ``rope``
    num_positions: int = 0  # rows of a table of positions, which is added to the embeddings; 0: there is none
    first_position: int = 0  # row of that table for the first token
    attention_scale: float = 0.0  # of scores; 0: 1 / sqrt(head_dim)
    attention_softcap: float = 0.0  # 0: none
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what each branch adds to the stream
    logit_scale: float = 1.0
    logit_softcap: float = 0.0  # 0: none
    is_quantized_gguf: bool = False
    four_bit_linears: frozenset[str] = frozenset()  # whose parts a GGUF has in blocks of 4 bits, such as "layers.3.qkv.weight"
    num_labels: int = 0  # of a classifier
    has_sinks: bool = False  # of attention
    mixture: MixtureConfig | None = None
    latent: LatentConfig | None = None  # then there is one key-value head, whose head_dim is that of a page
    num_draft_layers: int = 0  # behind the others in its checkpoint, for multi-token prediction: they are not loaded
    scheme: WeightScheme | None = None  # of the checkpoint's quantised weights; None: it has none
    quantized_linears: frozenset[str] = frozenset()  # which they are, such as "layers.3.qkv.weight"

    @property
    def num_experts(self) -> int:
        """Of a layer; 0 in a model without."""
        return 0 if self.mixture is None else self.mixture.num_experts

    def sliding_window(self, layer: int) -> int:
        return self.sliding_windows[layer] if self.sliding_windows else 0

    def mixture_of(self, layer: int) -> MixtureConfig | None:
        """None where the layer's feed-forward layer is a plain one."""
        return None if self.mixture is None or layer in self.mixture.dense_layers else self.mixture

    @property
    def distinct_ropes(self) -> tuple[RopeConfig, ...]:
        return tuple(dict.fromkeys(self.ropes)) or (self.rope,)

    def rotation(self, layer: int) -> int:
        """Which of the distinct ropes the layer has."""
        return self.distinct_ropes.index(self.ropes[layer]) if self.ropes else 0


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The shape of an encoder, whose tokens see each other in both directions, normalised from config.json."""

    architecture: str  # the family: "bert"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    norm_eps: float
    hidden_act: str
    max_model_len: int
    checkpoint_dtype: str
    first_position: int = 0  # row of the position table for a text's first token
    num_token_types: int = 0  # rows of the table of segments; 0: there is none
    num_labels: int = 0  # of a classifier
    tie_word_embeddings: bool = False
    is_quantized_gguf: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


ModelConfig = DecoderConfig | EncoderConfig
# Which of a text's hidden states stand for it: all of them averaged, the first, the last, or the largest of each channel.
PoolingKind = Literal["mean", "cls", "last", "max"]


@dataclass(frozen=True, slots=True)
class KVSpec:
    """The pages that a model needs on this rank; keys and values are alike in every layer."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    shares_values: bool = False  # whether pages of keys serve as those of values

    @property
    def numbers_per_token(self) -> int:
        """Of all layers, keys and values."""
        return (1 if self.shares_values else 2) * self.num_layers * self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What every layer of a model is built with."""

    dtype: torch.dtype  # of activations, norms and embeddings
    device: torch.device
    method: LinearMethod
    group: TensorParallelGroup
    max_model_len: int  # positions that will be asked for
    has_whole_experts: bool = False  # whether each rank holds some experts whole, and not a part of each
    stage: PipelineStage = WHOLE  # whose layers are built
    num_redundant_experts: int | None = None  # of whole ones, replicas beside one of each; None: they stay where they are loaded
    attention: AttentionLibrary | None = None  # whose attention kernels run; None: ours


class Model(Protocol):
    """Computes this rank's share of a step. Callers hold torch.inference_mode()."""

    @property
    def kv_spec(self) -> KVSpec: ...

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        """token_ids [T] int64 -> hidden states [T, H] after the last norm. Writes the step's keys and values into ``kv``.

        Of a stage that is not the first the hidden states [T, H] of the one before come in the tokens' place, and may be written over; of
        one that is not the last go those that the next one takes."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [L, H] -> [L, V] fp32, over the whole vocabulary on every rank. Of a model that pools, hidden is pooled, and V are the
        labels; where it has none, hidden itself comes back in fp32."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Weight]]:
        """What the loader fills."""
        ...

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """All layers by name, such as "layers.3.qkv"."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """All that the model holds on its device."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one kind: how to read their config and what their checkpoints call each weight. ``prefix``: of the body's tensors, without
    which some are saved. ``ignored``: endings of tensors that are computed. ``gguf_values``: see loading/gguf_config.py."""

    name: str
    read_config: ConfigReader
    build: Builder
    names: tuple[WeightName, ...]  # in safetensors
    gguf_names: tuple[WeightName, ...]
    stream: ResidualStream | None = None  # None: it must not be rotated
    prefix: str = "model."
    ignored: tuple[str, ...] = ()
    gguf_values: GgufValues | None = None
    stacks: tuple[ExpertStack, ...] = ()  # tensors of several experts, in safetensors and GGUF


@dataclass(frozen=True, slots=True)
class PooledFamily:
    """Models of one kind that pool texts. ``names`` are those of a checkpoint that has the body's tensors below ``prefix``; many are
    saved without it. ``ignored``: endings of tensors that pooling has no use for."""

    name: str
    read_config: Callable[[RawConfig], ModelConfig]
    build: Callable[[Any, BuildContext], Model]  # of the config that it reads
    names: tuple[WeightName, ...]
    prefix: str
    pooling: PoolingKind  # where neither the model's files nor the user say another
    ignored: tuple[str, ...]
    gguf_names: tuple[WeightName, ...] = ()
    stacks: tuple[ExpertStack, ...] = ()  # see Family


class GgufValues(Protocol):
    def __call__(self, own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json has of this family, and GGUF metadata under a name that no other has: ``own`` are the architecture's keys
        without their prefix, ``values`` what all families have in common, under the names of config.json."""
        ...


class ConfigReader(Protocol):
    def __call__(self, raw: RawConfig) -> DecoderConfig:
        """Raises ModelSourceError for what this family can't do."""
        ...


class Builder(Protocol):
    def __call__(self, config: DecoderConfig, context: BuildContext) -> Model: ...


class WeightTransform(Protocol):
    """How the weights of a model as it runs differ from its checkpoint's."""

    def update(self, weight: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The low-rank update ``b @ a`` of a checkpoint's weight [N, K] as the model's own needs it: a [r, K], b [N, r]."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """What a sentence-transformers Dense module does to a pooled vector: x [L, K] -> [L, N], in fp32."""

    weight: Tensor  # [N, K]
    bias: Tensor | None
    has_tanh: bool


class ReadPlain(Protocol):
    def __call__(self, name: str) -> Tensor | None:
        """The checkpoint's tensor of that name, from its files; None where they have none. Raises as loading does."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose weights are all there.

    ``names`` are those of the family's safetensors, whatever it was loaded from: adapters use them. ``transform`` is None where the
    weights are the checkpoint's, but for rounding.
    """

    model: Model
    config: ModelConfig
    weight_bytes: int  # on this rank, as kept
    weight_format: str  # "fp32", "bf16", "int8 (8-bit activations)"
    names: tuple[WeightName, ...]
    transform: WeightTransform | None
    projections: tuple[Projection, ...] = ()  # of pooled vectors
    read_plain: ReadPlain | None = None  # None: its files hold other numbers than the model was trained with, or none
    stage: PipelineStage = WHOLE  # whose layers the model has
