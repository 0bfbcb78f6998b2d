"""The tokenizer of a GGUF file in a file of its own, of an architecture whose GGUF files transformers reads.

It reads those of a few only, and what a tokenizer is does not follow from the architecture but for SentencePiece's variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headway.server.source.gguf_metadata import read_gguf_metadata

_ARRAYS = {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges")}
_STAND_INS = {"gemma": "gemma2", "gemma2": "gemma2", "gemma3": "gemma3", "phi3": "phi3"}
_ANY = "llama"
# What transformers' config of any architecture needs: no tokenizer has to do with it.
_SIZES = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv")


def write_stand_in(source: Path, target: Path) -> None:
    """Raises ModelSourceError where ``source`` can't be read."""
    from gguf import GGUFWriter

    metadata = read_gguf_metadata(source, arrays=_ARRAYS)
    architecture = _STAND_INS.get(metadata.get("general.architecture", ""), _ANY)
    writer = GGUFWriter(target, architecture)
    for name in _SIZES:
        writer.add_uint32(f"{architecture}.{name}", 1)
    writer.add_uint32(f"{architecture}.vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)
    for key, value in metadata.items():
        if key.startswith("tokenizer."):
            _add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_int64(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    elif value:
        writer.add_array(key, [item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item for item in value])
