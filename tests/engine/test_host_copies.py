"""Tensors that leave their device for a while; here the device is the host itself, whose memory is given back in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_driver import make_engine, request, run
from tiny_models import make_tiny_model

from headway.server.engine.host_copies import HostCopies


def test_contents_come_back_where_they_were() -> None:
    table = torch.randn(100, 33)
    tensors = [table, table[3:5], torch.arange(7, dtype=torch.int8), torch.randn(4, 6).T, torch.empty(0)]
    before = [tensor.clone() for tensor in tensors]
    copies = HostCopies(tensors)
    assert copies.num_bytes == 100 * 33 * 4 + 7 + 4 * 6 * 4, "memory that is shared is copied once"
    assert all(tensor.untyped_storage().nbytes() == 0 for tensor in tensors)
    copies.restore()
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    table[4, 0] = 5.0
    assert tensors[1][1, 0] == 5.0, "and shared as before"


def test_a_device_without_room_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.arange(5), torch.arange(9)
    copies = HostCopies([first, second])
    resize = torch.UntypedStorage.resize_

    def has_little(storage: torch.UntypedStorage, size: int) -> None:
        if size > 5 * 8:
            raise MemoryError
        resize(storage, size)

    with monkeypatch.context() as patch:
        patch.setattr(torch.UntypedStorage, "resize_", has_little)
        with pytest.raises(MemoryError):
            copies.restore()
    assert first.untyped_storage().nbytes() == second.untyped_storage().nbytes() == 0
    copies.restore()
    assert torch.equal(second, torch.arange(9))


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3"])
def test_all_of_a_model_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plain layouts that a GPU has."""
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")
    files = make_tiny_model(name, tmp_path)
    engine = make_engine(files, model={"max_model_len": 64}, cache={"num_gpu_blocks_override": 16})
    prompts = [request("a", [5, 6, 7], max_tokens=8, ignore_eos=True)]
    before = run(engine, prompts)["a"].token_ids
    model = engine._executor._worker.loaded.model  # type: ignore[attr-defined]
    copies = HostCopies(model.tensors())
    assert copies.num_bytes >= engine.info.weight_bytes
    assert all(tensor.untyped_storage().nbytes() == 0 for tensor in model.tensors())
    copies.restore()
    assert run(engine, prompts)["a"].token_ids == before
