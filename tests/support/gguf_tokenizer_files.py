"""GGUF files of no model but a tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf

from headway.server.source.files import ModelFiles


def write_gguf_tokenizer(path: Path, tokens: list[str], merges: list[str], pre: str, *, num_special: int) -> ModelFiles:
    """Byte-level BPE; the last ``num_special`` tokens are control tokens: the first of them ends a text, the last ends a turn."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {"block_count": 1, "context_length": 8, "embedding_length": 8, "feed_forward_length": 8}.items():
        writer.add_uint32(f"llama.{key}", value)
    for key in ("attention.head_count", "attention.head_count_kv", "vocab_size"):
        writer.add_uint32(f"llama.{key}", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    num_normal = len(tokens) - num_special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * num_normal + [3] * num_special)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(num_normal)
    writer.add_eos_token_id(num_normal)
    writer.add_uint32("tokenizer.ggml.eot_token_id", len(tokens) - 1)
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles("gguf", None, path, "m")
