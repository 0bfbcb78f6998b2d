"""DistilBERT: BERT with half of the layers and no segments, under names of its own."""

from __future__ import annotations

from functools import partial

from headway.server.models.base import EncoderConfig, PooledFamily
from headway.server.models.builders import build_encoder
from headway.server.models.encoder_config import EncoderKeys, read_encoder_config
from headway.server.models.encoder_names import BERT_HEADS, DISTILBERT_NAMES
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig

_KEYS = EncoderKeys("dim", "hidden_dim", "n_layers", "n_heads", "activation")
_HEAD = (
    WeightName("pre_classifier.weight", "head.dense.weight"),
    WeightName("pre_classifier.bias", "head.dense.bias"),
    WeightName("classifier.weight", "head.out.weight"),
    WeightName("classifier.bias", "head.out.bias"),
)


def read_config(raw: RawConfig, is_classifier: bool) -> EncoderConfig:
    return read_encoder_config(raw, "distilbert", is_classifier, keys=_KEYS, norm_eps=1e-12)


def family(is_classifier: bool) -> PooledFamily:
    return PooledFamily(
        "distilbert",
        partial(read_config, is_classifier=is_classifier),
        partial(build_encoder, head_activation="relu"),
        (*DISTILBERT_NAMES, *_HEAD),
        prefix="distilbert.",
        pooling="cls",
        ignored=BERT_HEADS,
    )
