"""Decoders that pool texts: without the head that says which token is next, with a classifier's where the model is one."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from headway.server.models.base import BuildContext, DecoderConfig, Family, PooledFamily
from headway.server.models.decoder import Decoder
from headway.server.models.head import ClassifierHead
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig, num_labels_of


class PooledDecoder(Decoder):
    """See models/base.py Model."""

    def __init__(self, config: DecoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.head = ClassifierHead(config.hidden_size, config.num_labels, context, bias=False) if config.num_labels else None

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.float() if self.head is None else self.head(hidden)


def pooled(family: Family, is_classifier: bool) -> PooledFamily:
    """A family of decoders as one that pools the last token's hidden state."""

    def read_config(raw: RawConfig) -> DecoderConfig:
        # Tied or not, the table of embeddings is all there is of it.
        return replace(family.read_config(raw), tie_word_embeddings=False, num_labels=num_labels_of(raw) if is_classifier else 0)

    return PooledFamily(
        family.name,
        read_config,
        PooledDecoder,
        (*family.names, WeightName("score.weight", "head.out.weight")),
        prefix="model.",
        pooling="last",
        ignored=("lm_head.weight", "output.weight", "score.weight"),
        gguf_names=family.gguf_names,
    )
