"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): the cache has, of each token, one short vector that all heads read."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.kernels.rope import rope_and_cache
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.attention import Attention, AttentionStep
from headway.server.layers.forward import LayerKV
from headway.server.layers.latent_config import LatentConfig
from headway.server.layers.linear import ColumnParallelLinear, ReplicatedLinear, split_evenly
from headway.server.layers.norm import RMSNorm
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.weight import Layer, Part, Weight

_EPS = 1e-6  # of the norms of latents, whatever the stream's


class HeadsOfLatent(Layer):
    """What makes keys [nope_dim] and values [v_dim] of this rank's heads of a latent [kv_rank], applied from the other side: to queries,
    and to what attention found. So no key or value of a head is ever made."""

    def __init__(
        self, latent: LatentConfig, num_heads: int, *, group: TensorParallelGroup, dtype: torch.dtype, device: torch.device
    ) -> None:
        each = latent.nope_dim + latent.v_dim
        self._heads = split_evenly(num_heads, group, "the number of attention heads")
        self._latent = latent
        length = self._heads * each
        parts = {"": Part((num_heads * each, latent.kv_rank), 0, group.rank * length, length)}
        self.weight = Weight((length, latent.kv_rank), parts, self._keep, dtype=dtype, device=device)
        self._to_key: Tensor  # [heads, nope_dim, kv_rank]
        self._to_value: Tensor  # [heads, kv_rank, v_dim]

    def queries(self, q: Tensor) -> Tensor:
        """q [T, heads, nope_dim] -> [T, heads, kv_rank], whose products with latents are those of q with keys."""
        return torch.bmm(q.transpose(0, 1), self._to_key).transpose(0, 1)

    def values(self, found: Tensor) -> Tensor:
        """Sums of latents [T, heads, kv_rank] -> those of values [T, heads, v_dim]."""
        return torch.bmm(found.transpose(0, 1), self._to_value).transpose(0, 1)

    def _keep(self, weight: Tensor) -> int:
        own = weight.view(self._heads, -1, self._latent.kv_rank)
        key, value = torch.split(own, [self._latent.nope_dim, self._latent.v_dim], dim=1)
        self._to_key, self._to_value = key.contiguous(), value.transpose(1, 2).contiguous()
        return weight.nbytes


class LatentAttention(Layer):
    """x [T, H] -> [T, num_heads * v_dim], this rank's heads; every rank has all latents.

    A page has of each token its rotated key, which all heads share, then its latent: one key-value head for all queries, which is the value
    too. Of what attention finds of it the first ``rope_dim`` numbers are dropped.
    """

    def __init__(
        self,
        latent: LatentConfig,
        hidden_size: int,
        num_heads: int,
        *,
        has_bias: bool,
        scale: float,
        rotation: int,
        is_interleaved: bool,
        method: LinearMethod,
        group: TensorParallelGroup,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """``has_bias``: of the projections to latents. The rest is as layers/attention.py has it."""
        q_size = num_heads * latent.q_dim
        self.q_a: ReplicatedLinear | None = None
        if latent.q_rank:
            self.q_a = ReplicatedLinear(hidden_size, latent.q_rank, bias=has_bias, method=method)
            self.q_a_norm = RMSNorm(latent.q_rank, _EPS, dtype=dtype, device=device)
            self.q_b = ColumnParallelLinear(latent.q_rank, q_size, bias=False, method=method, group=group)
        else:
            self.q = ColumnParallelLinear(hidden_size, q_size, bias=False, method=method, group=group)
        self.kv_a = ReplicatedLinear(hidden_size, latent.page_dim, bias=has_bias, method=method)
        self.kv_a_norm = RMSNorm(latent.kv_rank, _EPS, dtype=dtype, device=device)
        self.kv_b = HeadsOfLatent(latent, num_heads, group=group, dtype=dtype, device=device)
        self._num_heads = num_heads // group.size
        self._latent = latent
        self._rotation = rotation
        self._is_interleaved = is_interleaved
        self.pages = Attention(self._num_heads, 1, latent.page_dim, scale=scale, context=group.context)

    def __call__(self, x: Tensor, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None) -> Tensor:
        own = self._latent
        q = self._queries(x, lora).view(len(x), self._num_heads, -1)
        q_nope, q_rope = torch.split(q, [own.nope_dim, own.rope_dim], dim=-1)
        latents, k_rope = torch.split(self.kv_a(x, lora), [own.kv_rank, own.rope_dim], dim=-1)
        page = torch.cat([k_rope, self.kv_a_norm(latents.contiguous())], dim=-1).unsqueeze(1)
        rotation = step.rotations[self._rotation]
        rotated = rope_and_cache(
            torch.cat([q_rope, self.kv_b.queries(q_nope)], dim=-1),
            page,
            None,
            rotation.cos_sin,
            step.positions,
            kv.k,
            None,
            step.slot_mapping,
            interleaved=self._is_interleaved,
            plan=rotation.plan,
        )
        found = self.pages.attend(rotated, kv, step)
        return self.kv_b.values(found[..., own.rope_dim :]).reshape(len(x), -1)

    def _queries(self, x: Tensor, lora: LoraPlan | None) -> Tensor:
        return self.q(x, lora) if self.q_a is None else self.q_b(self.q_a_norm(self.q_a(x, lora)), lora)
