"""How well a model predicts the English text beside this file, in the demo model's tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from demo_model import demo_gguf
from forward_batches import Stepper
from torch import Tensor
from torch.nn.functional import kl_div, nll_loss

from headway.server.models.base import Model

_TEXT = Path(__file__).with_name("english.txt")


def demo_tokenizer() -> Any:
    """That of transformers."""
    import transformers

    path = demo_gguf()
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def english_tokens() -> list[int]:
    token_ids: list[int] = demo_tokenizer()(_TEXT.read_text(encoding="utf-8")).input_ids
    assert len(token_ids) > 1500
    return token_ids


def log_probabilities(model: Model, token_ids: list[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """[T, V], all computed in one step; ``dtype`` of the pages."""
    num_blocks = -(-len(token_ids) // 16)
    return Stepper(model, num_blocks=num_blocks, block_size=16, dtype=dtype).run(token_ids, [len(token_ids)]).log_softmax(-1)


def perplexity(log_probabilities: Tensor, token_ids: list[int]) -> float:
    return math.exp(nll_loss(log_probabilities[:-1], torch.tensor(token_ids[1:])).item())


def divergence(found: Tensor, exact: Tensor) -> float:
    """Kullback-Leibler, in nats a token, of log probabilities [T, V]."""
    return kl_div(found, exact, log_target=True, reduction="batchmean").item()
