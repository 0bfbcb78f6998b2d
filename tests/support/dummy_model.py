"""A model of one layer without weights, for `--load-format dummy`: a whole server that is ready in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_tokenizers import byte_level_backend

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def write_dummy_model(directory: Path, **changes: Any) -> Path:
    """config.json, with ``changes``, and tokenizer.json in ``directory``, which is returned."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    byte_level_backend().save(str(directory / "tokenizer.json"))
    return directory
