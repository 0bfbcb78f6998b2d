"""What checkpoints call the weights of an encoder, and which weight of ours each of them fills."""

from __future__ import annotations

from headway.server.models.names import WeightName

# Endings of what stands on an encoder for other tasks: guessing masked words, the sentence that follows; and tables that are computed.
BERT_HEADS = (
    ".position_ids",
    "predictions.bias",
    "predictions.decoder.weight",
    "predictions.decoder.bias",
    "predictions.transform.dense.weight",
    "predictions.transform.dense.bias",
    "predictions.transform.LayerNorm.weight",
    "predictions.transform.LayerNorm.bias",
    "seq_relationship.weight",
    "seq_relationship.bias",
    "pooler.dense.weight",
    "pooler.dense.bias",
    "classifier.weight",
    "classifier.bias",
    "classifier.dense.weight",
    "classifier.dense.bias",
    "classifier.out_proj.weight",
    "classifier.out_proj.bias",
    "lm_head.bias",
    "lm_head.dense.weight",
    "lm_head.dense.bias",
    "lm_head.layer_norm.weight",
    "lm_head.layer_norm.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "vocab_transform.weight",
    "vocab_transform.bias",
    "vocab_layer_norm.weight",
    "vocab_layer_norm.bias",
    "vocab_projector.weight",
    "vocab_projector.bias",
)


def bert_names(prefix: str) -> tuple[WeightName, ...]:
    """Of BERT and of RoBERTa, whose names differ in the prefix only."""
    layer = prefix + "encoder.layer.{i}."
    embeddings = prefix + "embeddings."
    tables = {
        "word_embeddings.weight": "embed_tokens.weight",
        "position_embeddings.weight": "embed_positions.weight",
        "token_type_embeddings.weight": "embed_types.weight",
        "LayerNorm.weight": "embed_norm.weight",
        "LayerNorm.bias": "embed_norm.bias",
    }
    modules = {
        "attention.self.query": ("qkv", "q"),
        "attention.self.key": ("qkv", "k"),
        "attention.self.value": ("qkv", "v"),
        "attention.output.dense": ("o", ""),
        "attention.output.LayerNorm": ("attention_norm", ""),
        "intermediate.dense": ("up", ""),
        "output.dense": ("down", ""),
        "output.LayerNorm": ("output_norm", ""),
    }
    return (*(WeightName(embeddings + name, weight) for name, weight in tables.items()), *_layer_names(layer, modules))


def _layer_names(prefix: str, modules: dict[str, tuple[str, str]]) -> tuple[WeightName, ...]:
    """Weight and bias of each."""
    return tuple(
        WeightName(f"{prefix}{name}.{kind}", f"layers.{{i}}.{ours}.{kind}", part)
        for name, (ours, part) in modules.items()
        for kind in ("weight", "bias")
    )


DISTILBERT_NAMES = (
    WeightName("distilbert.embeddings.word_embeddings.weight", "embed_tokens.weight"),
    WeightName("distilbert.embeddings.position_embeddings.weight", "embed_positions.weight"),
    WeightName("distilbert.embeddings.LayerNorm.weight", "embed_norm.weight"),
    WeightName("distilbert.embeddings.LayerNorm.bias", "embed_norm.bias"),
    *_layer_names(
        "distilbert.transformer.layer.{i}.",
        {
            "attention.q_lin": ("qkv", "q"),
            "attention.k_lin": ("qkv", "k"),
            "attention.v_lin": ("qkv", "v"),
            "attention.out_lin": ("o", ""),
            "sa_layer_norm": ("attention_norm", ""),
            "ffn.lin1": ("up", ""),
            "ffn.lin2": ("down", ""),
            "output_layer_norm": ("output_norm", ""),
        },
    ),
)
