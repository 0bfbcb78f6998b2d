"""A family of decoders as one that pools texts."""

from __future__ import annotations

from dataclasses import replace

from headway.server.models.base import DecoderConfig, Family, PooledFamily
from headway.server.models.builders import build_pooled_decoder
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig, num_labels_of


def pooled(family: Family, is_classifier: bool) -> PooledFamily:
    """``family`` as one that pools the last token's hidden state."""

    def read_config(raw: RawConfig) -> DecoderConfig:
        # Tied or not, the table of embeddings is all there is of it.
        return replace(family.read_config(raw), tie_word_embeddings=False, num_labels=num_labels_of(raw) if is_classifier else 0)

    return PooledFamily(
        family.name,
        read_config,
        build_pooled_decoder,
        (*family.names, WeightName("score.weight", "head.out.weight")),
        prefix=family.prefix,
        pooling="last",
        ignored=("lm_head.weight", "output.weight", "score.weight", *family.ignored),
        gguf_names=family.gguf_names,
        stacks=family.stacks,
    )
