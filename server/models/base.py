"""What a model is to the rest of the engine: its config in our own words, and the two calls of a step. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.layers.rope_config import RopeConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from headway.server.distributed.groups import TensorParallelGroup
    from headway.server.layers.forward import ForwardBatch, LayerKV
    from headway.server.layers.quant.method import LinearMethod
    from headway.server.layers.weight import Layer, Weight
    from headway.server.models.names import ResidualStream, WeightName
    from headway.server.models.raw_config import RawConfig


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
    rms_norm_eps: float
    rope: RopeConfig
    max_model_len: int  # longest context that the model was made for, in tokens
    checkpoint_dtype: str  # "float32" | "bfloat16" | "float16"
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    hidden_act: str = "silu"
    sliding_windows: tuple[int, ...] = ()  # one a layer, 0: attends to everything; empty: all 0
    is_quantized_gguf: bool = False
    four_bit_linears: frozenset[str] = frozenset()  # whose parts a GGUF has in blocks of 4 bits, such as "layers.3.qkv.weight"
    num_labels: int = 0  # of a classifier

    def sliding_window(self, layer: int) -> int:
        return self.sliding_windows[layer] if self.sliding_windows else 0


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


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What every layer of a model is built with."""

    dtype: torch.dtype  # of activations, norms and embeddings
    device: torch.device
    method: LinearMethod
    group: TensorParallelGroup
    max_model_len: int  # positions that will be asked for
    stage: PipelineStage = WHOLE  # whose layers are built


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
    """Models of one kind: how to read their config and what their checkpoints call each weight."""

    name: str
    read_config: ConfigReader
    build: Builder
    names: tuple[WeightName, ...]  # in safetensors
    gguf_names: tuple[WeightName, ...]
    stream: ResidualStream | None = None  # None: it must not be rotated


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
    stage: PipelineStage = WHOLE  # whose layers the model has
