"""GGUF files of no model but a tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf

from headway.server.source.files import ModelFiles

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # tokenizer.ggml.token_type


def write_gguf_tokenizer(path: Path, tokens: list[str], merges: list[str], pre: str, *, num_special: int) -> ModelFiles:
    """Byte-level BPE; the last ``num_special`` tokens are control tokens: the first of them ends a text, the last ends a turn."""
    writer, num_normal = _writer(path, "llama"), len(tokens) - num_special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_NORMAL] * num_normal + [_CONTROL] * num_special)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(num_normal)
    writer.add_eos_token_id(num_normal)
    writer.add_uint32("tokenizer.ggml.eot_token_id", len(tokens) - 1)
    writer.add_chat_template("{{ messages }}")
    return _written(writer, path)


def write_sentencepiece_tokenizer(path: Path, architecture: str, tokens: list[str]) -> ModelFiles:
    """Behind the special tokens and one of each byte; the sooner a token comes, the better is its score."""
    writer = _writer(path, architecture)
    special = ["<unk>", "<s>", "</s>"]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *tokens])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(tokens))])
    writer.add_token_types([_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(tokens)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return _written(writer, path)


def _writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {"block_count": 1, "context_length": 8, "embedding_length": 8, "feed_forward_length": 8}.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for key in ("attention.head_count", "attention.head_count_kv", "vocab_size"):
        writer.add_uint32(f"{architecture}.{key}", 1)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    return writer


def _written(writer: gguf.GGUFWriter, path: Path) -> ModelFiles:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles("gguf", None, path, "m")
