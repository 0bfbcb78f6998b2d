"""What makes keys and values of latents, in GGUF files made since April 2025: two tensors of a layer in the place of one."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.loading.checkpoint import CheckpointTensor

_WHOLE, _KEYS, _VALUES = ".attn_kv_b.weight", ".attn_k_b.weight", ".attn_v_b.weight"


def with_whole_latents(tensors: list[CheckpointTensor], origin: str) -> list[CheckpointTensor]:
    """With attn_k_b [heads, kv_rank, nope_dim] and attn_v_b [heads, v_dim, kv_rank] of each layer as attn_kv_b
    [heads * (nope_dim + v_dim), kv_rank], as older files have it; where that is there too, they are left out.

    Raises ModelSourceError where the two don't fit together. One without the other stays: the loader has no place for it.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    found: list[CheckpointTensor] = []
    for tensor in tensors:
        layer = next((tensor.name.removesuffix(end) for end in (_KEYS, _VALUES) if tensor.name.endswith(end)), None)
        keys, values = by_name.get(f"{layer}{_KEYS}"), by_name.get(f"{layer}{_VALUES}")
        if layer is None or keys is None or values is None:
            found.append(tensor)
        elif tensor is keys and f"{layer}{_WHOLE}" not in by_name:
            found.append(_joined(f"{layer}{_WHOLE}", keys, values, origin))
    return found


def _joined(name: str, keys: CheckpointTensor, values: CheckpointTensor, origin: str) -> CheckpointTensor:
    if len(keys.shape) != 3 or len(values.shape) != 3 or (keys.shape[0], keys.shape[1]) != (values.shape[0], values.shape[2]):
        raise ModelSourceError(
            f"The tensors {keys.name} {list(keys.shape)} and {values.name} {list(values.shape)} of {origin} don't fit together: they "
            "should be [heads, rank, size of a key] and [heads, size of a value, rank]; convert the model anew."
        )
    heads, rank, nope_dim = keys.shape

    def read() -> Tensor:
        return torch.cat([keys.read().transpose(1, 2), values.read()], dim=1).reshape(-1, rank)

    def done() -> None:
        keys.done()
        values.done()

    return CheckpointTensor(name, (heads * (nope_dim + values.shape[1]), rank), read, done)
