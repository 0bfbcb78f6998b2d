"""KV blocks of a CUDA device, copied to pinned memory and back beside its steps."""

from __future__ import annotations

import pytest
import torch

from headway.server.engine.kv.transfer.offload.pages import DevicePages, HostBlocks
from headway.server.layers.forward import LayerKV

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_what_comes_back_is_what_went_behind_the_steps_before() -> None:
    device = torch.device("cuda")
    kv = [LayerKV(*(torch.rand((32, 16, 2, 8 + layer), device=device).bfloat16() for _ in range(2))) for layer in range(3)]
    pages = DevicePages(kv)
    memory = HostBlocks(16, pages.block_bytes, is_pinned=True)
    ids, targets = [3, 30, 7], [5, 0, 31]
    for layer in kv:  # a step whose end nobody has waited for
        layer.k.mul_(2)
    pages.read(ids, [memory[index] for index in range(3)], pages.mark())
    expected = [tensor[ids].clone() for layer in kv for tensor in (layer.k, layer.v)]
    others = [block for block in range(32) if block not in targets]
    untouched = [tensor[others].clone() for layer in kv for tensor in (layer.k, layer.v)]
    for layer in kv:
        layer.v[targets] = 0
    pages.write(targets, [memory[index] for index in range(3)], pages.mark())
    now = [tensor for layer in kv for tensor in (layer.k, layer.v)]
    assert all(torch.equal(tensor[targets], then) for tensor, then in zip(now, expected, strict=True))
    assert all(torch.equal(tensor[others], then) for tensor, then in zip(now, untouched, strict=True))
    memory.close()
