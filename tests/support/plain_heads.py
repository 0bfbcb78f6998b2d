"""EAGLE heads straight from the papers' formulas: a whole text at once, in plain torch, without pages, chunks or steps."""

from __future__ import annotations

from typing import Any

import torch
from tiny_heads import head_config, head_weights
from tiny_models import transformers_model
from torch import Tensor
from torch.nn.functional import linear, silu, softmax

from headway.server.source.files import ModelFiles


class PlainHead:
    """One of ``method`` beside the model ``target``."""

    def __init__(self, method: str, target: ModelFiles, head: ModelFiles, taps: tuple[int, ...] = ()) -> None:
        """``taps``: after how many layers the hidden states are taken that EAGLE-3 reads."""
        self._is_third = method == "eagle3"
        self._model = transformers_model(target)
        self._config = head_config(head)
        self._weights = {name.replace("midlayer.", "layers.0."): value for name, value in head_weights(head).items()}
        self._taps = taps

    @torch.no_grad()
    def drafts(self, token_ids: list[int], count: int) -> list[int]:
        """Behind a text whose last token the model has not computed."""
        result = self._model.model(torch.tensor([token_ids[:-1]]), output_hidden_states=True)
        if self._is_third:
            parts = [result.hidden_states[tap][0] for tap in self._taps]
            if self._config.get("fc_norm"):
                parts = [self._norm(part, f"fc_norm.{at}") for at, part in enumerate(parts)]
            read = torch.cat(parts, dim=-1)
            if self._config.get("norm_before_fc"):
                read = self._norm(read, "input_norm")
            features = linear(read, self._weights["fc.weight"])
        else:
            features = result.last_hidden_state[0]
        text, drafts = list(token_ids), []
        for _ in range(count):
            said = self._layer(torch.tensor(text[1:]), features)[-1:]
            draft = self._likeliest(said[0])
            drafts.append(draft)
            text.append(draft)
            features = torch.cat((features, self._norm(said, "norm") if self._config.get("norm_output") else said))
        return drafts

    def _layer(self, token_ids: Tensor, features: Tensor) -> Tensor:
        embedded = self._model.model.embed_tokens(token_ids)
        if self._is_third:
            stream = features
            read = torch.cat((self._norm(embedded, "layers.0.input_layernorm"), self._norm(features, "layers.0.hidden_norm")), dim=-1)
            if self._config.get("norm_before_residual"):
                stream = self._norm(features, "layers.0.hidden_norm")
        else:
            stream = read = linear(torch.cat((embedded, features), dim=-1), self._weights["fc.weight"], self._weights.get("fc.bias"))
        stream = stream + self._attention(read)
        normed = self._norm(stream, "layers.0.post_attention_layernorm")
        gate, up = (self._linear(normed, f"mlp.{name}_proj") for name in ("gate", "up"))
        return stream + self._linear(silu(gate) * up, "mlp.down_proj")

    def _likeliest(self, said: Tensor) -> int:
        if not self._is_third:
            return int(self._model.lm_head(said).argmax())
        draft = int(linear(self._norm(said, "norm"), self._weights["lm_head.weight"]).argmax())
        return draft + int(self._weights["d2t"][draft])

    def _attention(self, read: Tensor) -> Tensor:
        heads, kv_heads = self._config["num_attention_heads"], self._config["num_key_value_heads"]
        length = len(read)
        q, k, v = (self._linear(read, f"self_attn.{name}_proj").view(length, -1, self._config["hidden_size"] // heads) for name in "qkv")
        q, k = _rotated(q), _rotated(k)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
        scores = torch.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        return self._linear(torch.einsum("hts,shd->thd", softmax(scores, dim=-1), v).reshape(length, -1), "self_attn.o_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self._weights[f"layers.0.{name}.weight"], self._weights.get(f"layers.0.{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self._weights[f"{name}.weight"] * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._config["rms_norm_eps"])


def _rotated(x: Tensor, theta: float = 10000.0) -> Tensor:
    """x [T, heads, D] by its places, in halves (Su et al., arXiv:2104.09864)."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(len(x)).float(), theta ** -(torch.arange(half).float() / half))[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), dim=-1)


class DraftRecorder:
    """In the place of an engine's drafter: keeps what it drew, and behind which text."""

    def __init__(self, engine: Any) -> None:
        self.drawn: list[tuple[list[int], list[int]]] = []  # a text, and the drafts behind it
        runner = engine._executor._worker.runner
        self._drafter, self._rows = runner._drafter, runner._rows
        runner._drafter = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drafter, name)

    def draw(self, scheduled: list[Any]) -> list[Any]:
        drafted: list[Any] = self._drafter.draw(scheduled)
        for item in drafted:
            if item.drafts:
                row = self._rows.row_of(item.request_id)
                text = self._rows.tokens(row, 0, int(self._rows.num_computed(row)) + 1)
                self.drawn.append((text.tolist(), list(item.drafts)))
        return drafted
