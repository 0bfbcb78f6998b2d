"""BERT: encoders of the first shape, most sentence-transformers among them."""

from __future__ import annotations

from functools import partial

from headway.server.models.base import EncoderConfig, PooledFamily
from headway.server.models.builders import build_encoder
from headway.server.models.encoder_config import read_encoder_config
from headway.server.models.encoder_names import BERT_HEADS, bert_names
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig

_HEAD = (
    WeightName("bert.pooler.dense.weight", "head.dense.weight"),
    WeightName("bert.pooler.dense.bias", "head.dense.bias"),
    WeightName("classifier.weight", "head.out.weight"),
    WeightName("classifier.bias", "head.out.bias"),
)


def read_config(raw: RawConfig, is_classifier: bool) -> EncoderConfig:
    return read_encoder_config(
        raw, "bert", is_classifier, norm_eps=raw.number("layer_norm_eps", 1e-12), num_token_types=raw.integer("type_vocab_size", 2)
    )


def family(is_classifier: bool) -> PooledFamily:
    return PooledFamily(
        "bert",
        partial(read_config, is_classifier=is_classifier),
        partial(build_encoder, head_activation="tanh"),
        (*bert_names("bert."), *_HEAD),
        prefix="bert.",
        pooling="cls",
        ignored=BERT_HEADS,
    )
