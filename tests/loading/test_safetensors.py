"""Safetensors files as the loader reads them: mapped, given back, refused."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch

from headway.server.errors import ModelSourceError
from headway.server.loading.safetensors import SafetensorsCheckpoint


def test_what_was_read_is_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    values = {"a": torch.randn(600, 1024), "b": torch.randn(3, 5).bfloat16(), "c": torch.empty(0, 4), "d": torch.tensor(2.5)}
    save_file(values, tmp_path / "model.safetensors")
    tensors = SafetensorsCheckpoint(tmp_path).tensors()
    assert {tensor.name: tensor.shape for tensor in tensors} == {name: tuple(value.shape) for name, value in values.items()}
    for tensor in tensors:
        view = tensor.read()
        assert view.equal(values[tensor.name])
        if tensor.name == "a":
            assert _resident_kb("model.safetensors") >= view.nbytes // 1024
            tensor.done()
            assert _resident_kb("model.safetensors") <= 128, "pages around the tensor's ends may stay"
        tensor.done()
        assert view.equal(values[tensor.name])


def test_a_dtype_of_which_torch_knows_nothing_is_named(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(ModelSourceError, match=r"The tensor w of .*model\.safetensors has the dtype F8_E8M0, which can't be read"):
        SafetensorsCheckpoint(tmp_path)


def _resident_kb(name: str) -> int:
    """Of this process's mapping of a file."""
    maps = Path("/proc/self/smaps").read_text()
    (block,) = re.findall(rf"{re.escape(name)}\n(.*?VmFlags)", maps, re.DOTALL)
    return int(re.search(r"Rss: +(\d+) kB", block)[1])  # type: ignore[index]
