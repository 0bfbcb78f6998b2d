"""Tiny models that pool, with random weights, one of each architecture, written as a Hub directory would be (without a tokenizer)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import BASE as DECODER

from headway.server.source.files import ModelFiles

# Sizes that 2 ranks divide, a vocabulary that they don't.
_BERT: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "attn_implementation": "eager",
}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": 259,
    "dim": 48,
    "hidden_dim": 80,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 128,
    "attn_implementation": "eager",
}

_MODERNBERT: dict[str, Any] = {
    **{key: value for key, value in _BERT.items() if key != "max_position_embeddings"},
    "num_hidden_layers": 4,
    "local_attention": 12,
    "max_position_embeddings": 128,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
}

# name -> (transformers' model class, its config's fields)
TINY_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", _BERT),
    "bert-masked": ("BertForMaskedLM", _BERT | {"hidden_act": "gelu_new"}),
    "roberta": ("RobertaModel", _BERT | {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaModel", _BERT | {"type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": ("DistilBertModel", _DISTILBERT),
    "modernbert": ("ModernBertModel", _MODERNBERT),
    "modernbert-biased": ("ModernBertForMaskedLM", _MODERNBERT | {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
}
TINY_CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", _BERT | {"num_labels": 3}),
    "roberta": ("RobertaForSequenceClassification", _BERT | {"type_vocab_size": 1, "pad_token_id": 1, "num_labels": 3}),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", _BERT | {"type_vocab_size": 1, "pad_token_id": 1, "num_labels": 1}),
    "distilbert": ("DistilBertForSequenceClassification", _DISTILBERT | {"num_labels": 2}),
    "modernbert": ("ModernBertForSequenceClassification", _MODERNBERT | {"num_labels": 3, "classifier_pooling": "cls"}),
    "modernbert-mean": (
        "ModernBertForSequenceClassification",
        _MODERNBERT | {"num_labels": 3, "classifier_pooling": "mean", "classifier_activation": "relu"},
    ),
    "llama": ("LlamaForSequenceClassification", DECODER | {"num_labels": 3, "pad_token_id": 0}),
    "qwen2": ("Qwen2ForSequenceClassification", DECODER | {"num_labels": 1, "pad_token_id": 0}),
}


def make_tiny_encoder(name: str, directory: Path, *, is_classifier: bool = False, seed: int = 0, **changes: Any) -> ModelFiles:
    """Writes the model, with ``changes`` to its config, into ``directory`` as fp32 safetensors.

    All weights are random, biases and norms too, and large enough that results differ.
    """
    import torch
    import transformers

    class_name, fields = (TINY_CLASSIFIERS if is_classifier else TINY_ENCODERS)[name]
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**fields | changes)).to(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in key.lower() and key.endswith("weight")
            parameter.copy_(1 + 0.1 * values if is_norm else 0.15 * values)
    model.save_pretrained(directory)
    return ModelFiles("safetensors", directory, None, f"tiny-{name}")


def reference_model(files: ModelFiles) -> Any:
    """The same model as transformers runs it, in fp32 with eager attention."""
    import torch
    import transformers

    architecture = json.loads((files.path / "config.json").read_text())["architectures"][0]
    model_class = getattr(transformers, architecture)
    return model_class.from_pretrained(files.path, dtype=torch.float32, attn_implementation="eager").eval()


def write_sentence_transformer(files: ModelFiles, pooling: dict[str, Any], *modules: str, max_seq_length: int | None = None) -> None:
    """Puts sentence-transformers' files beside a model: its pooling, then ``modules`` such as "2_Normalize"."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, folder in enumerate(("1_Pooling", *modules), start=1):
        kind = folder.partition("_")[2]
        listed.append({"idx": index, "name": str(index), "path": folder, "type": f"sentence_transformers.models.{kind}"})
        (files.path / folder).mkdir(exist_ok=True)
    (files.path / "modules.json").write_text(json.dumps(listed))
    (files.path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if max_seq_length is not None:
        (files.path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_seq_length}))
