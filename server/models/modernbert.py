"""ModernBERT: BERT of today, in a shape of its own."""

from __future__ import annotations

from functools import partial

from headway.server.models.base import PooledFamily
from headway.server.models.builders import build_modernbert
from headway.server.models.encoder_names import BERT_HEADS
from headway.server.models.modernbert_config import read_config
from headway.server.models.names import WeightName

_LAYER = {
    "attn_norm": "attention_norm",
    "attn.Wqkv": "qkv",
    "attn.Wo": "o",
    "mlp_norm": "mlp_norm",
    "mlp.Wi": "gate_up",
    "mlp.Wo": "down",
}
_NAMES = (
    WeightName("model.embeddings.tok_embeddings.weight", "embed_tokens.weight"),
    *(
        WeightName(f"{theirs}.{kind}", f"{ours}.{kind}")
        for theirs, ours in {
            "model.embeddings.norm": "embed_norm",
            "model.final_norm": "norm",
            **{f"model.layers.{{i}}.{theirs}": f"layers.{{i}}.{ours}" for theirs, ours in _LAYER.items()},
            "head.dense": "head.dense",
            "head.norm": "head.norm",
            "classifier": "head.out",
        }.items()
        for kind in ("weight", "bias")
    ),
)
_HEADS = ("head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias", "decoder.weight", "decoder.bias")


def family(is_classifier: bool) -> PooledFamily:
    return PooledFamily(
        "modernbert",
        partial(read_config, is_classifier=is_classifier),
        build_modernbert,
        _NAMES,
        prefix="model.",
        pooling="cls",
        ignored=(*BERT_HEADS, *_HEADS),
    )
