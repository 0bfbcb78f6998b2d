"""RoBERTa and XLM-RoBERTa: BERT whose positions begin behind the padding token's id, with a classifier of its own."""

from __future__ import annotations

from functools import partial

from headway.server.models.base import EncoderConfig, PooledFamily
from headway.server.models.builders import build_encoder
from headway.server.models.encoder_config import read_encoder_config
from headway.server.models.encoder_names import BERT_HEADS, bert_names
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig

_HEAD = (
    WeightName("classifier.dense.weight", "head.dense.weight"),
    WeightName("classifier.dense.bias", "head.dense.bias"),
    WeightName("classifier.out_proj.weight", "head.out.weight"),
    WeightName("classifier.out_proj.bias", "head.out.bias"),
)


def read_config(raw: RawConfig, is_classifier: bool) -> EncoderConfig:
    return read_encoder_config(
        raw,
        "roberta",
        is_classifier,
        first_position=raw.integer("pad_token_id", 1) + 1,
        norm_eps=raw.number("layer_norm_eps", 1e-12),
        num_token_types=raw.integer("type_vocab_size", 2),
    )


def family(is_classifier: bool) -> PooledFamily:
    return PooledFamily(
        "roberta",
        partial(read_config, is_classifier=is_classifier),
        partial(build_encoder, head_activation="tanh"),
        (*bert_names("roberta."), *_HEAD),
        prefix="roberta.",
        pooling="cls",
        ignored=BERT_HEADS,
    )
