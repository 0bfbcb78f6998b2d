"""The model of benchmarks/gpu_engine.py, random weights in the shape of a real one, and what a step of it has to move and compute."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kernel_case import Shapes
from tokenizers import Tokenizer

from headway.server.bench.stub_model import write_stub_model
from headway.server.types import EngineInfo


def write_model(directory: Path, shapes: Shapes, max_position: int) -> None:
    """config.json alone: weights are drawn when the engine loads them."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shapes.hidden_size,
        "intermediate_size": shapes.intermediate_size,
        "num_hidden_layers": shapes.num_layers,
        "num_attention_heads": shapes.num_heads,
        "num_key_value_heads": shapes.num_kv_heads,
        "head_dim": shapes.head_dim,
        "vocab_size": shapes.vocab_size,
        "max_position_embeddings": max_position,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": str(shapes.dtype).removeprefix("torch."),
    }
    (directory / "config.json").write_text(json.dumps(config))


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A tokenizer in which every id is a text, as in real vocabularies, of at least 1,024 ids. Before write_model: a config.json comes
    with it."""
    write_stub_model(directory)
    file = directory / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    first_free = Tokenizer.from_file(str(file)).get_vocab_size()
    words.update({f"word{token_id}": token_id for token_id in range(first_free, vocab_size)})
    file.write_text(json.dumps(tokenizer))


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes and operations of the model that ``info`` tells about, each weight and each key read once."""

    shapes: Shapes
    info: EngineInfo

    @property
    def weight_bytes(self) -> int:
        """Read by a step: all but the embedding, of which a step takes a row a token."""
        return self.info.weight_bytes - self.shapes.vocab_size * self.shapes.hidden_size * self.shapes.dtype.itemsize

    @property
    def kv_bytes_a_token(self) -> float:
        return self.info.kv_cache_bytes / (self.info.num_blocks * self.info.block_size)

    def decode_bytes(self, num_context_tokens: float) -> float:
        """Of one step of rows that have ``num_context_tokens`` keys together."""
        return self.weight_bytes + self.kv_bytes_a_token * num_context_tokens

    def prefill_flops(self, num_tokens: int) -> float:
        """Of one prompt from its first token, logits for its last."""
        weights = {name: n * k for name, (n, k) in self.shapes.products.items()}
        output = weights.pop("lm_head")
        attention = 4 * self.shapes.num_heads * self.shapes.head_dim * num_tokens * (num_tokens + 1) // 2
        return self.shapes.num_layers * (2 * num_tokens * sum(weights.values()) + attention) + 2 * output
