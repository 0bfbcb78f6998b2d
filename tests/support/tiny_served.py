"""A tiny model with a tokenizer, as a directory that the real server serves within seconds."""

from __future__ import annotations

from pathlib import Path

from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_backend


def make_served_model(directory: Path, num_layers: int = 1) -> str:
    """Random weights, a token for each byte of the prompt. Returns the name to serve it by."""
    make_tiny_model("llama", directory, vocab_size=264, num_hidden_layers=num_layers, max_position_embeddings=65536)
    byte_level_backend().save(str(directory / "tokenizer.json"))
    return str(directory)
