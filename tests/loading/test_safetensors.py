"""Safetensors files as the loader reads them: mapped, given back, refused."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
import torch
from safetensors.torch import save_file

from headway.server.errors import ModelSourceError
from headway.server.loading import safetensors
from headway.server.loading.safetensors import SafetensorsCheckpoint


def test_what_was_read_is_given_back_and_can_be_read_again(tmp_path: Path) -> None:
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


def test_a_file_larger_than_the_memory_is_mapped(tmp_path: Path) -> None:
    """Its weights may be on their way to a GPU. The kernel refuses a mapping that it would have to keep so much memory ready for."""
    num_bytes = 2 * (psutil.virtual_memory().total + psutil.swap_memory().total)
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + num_bytes)  # holes: no disk space
        except OSError:
            pytest.skip("the file system here has no files so large")
    (tensor,) = SafetensorsCheckpoint(tmp_path).tensors()
    assert tensor.read()[-4:].tolist() == [0, 0, 0, 0]


def test_a_file_that_cannot_be_mapped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(ModelSourceError, match=r"model\.safetensors can't be read \(No such device\); check"):
        SafetensorsCheckpoint(tmp_path)


def test_a_file_replaced_while_it_is_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the library looked at it."""
    path = tmp_path / "model.safetensors"

    @contextlib.contextmanager
    def look(path: Path, framework: str) -> Iterator[None]:
        yield
        path.write_bytes(path.read_bytes()[:-4])

    save_file({"w": torch.ones(2)}, path)
    monkeypatch.setattr(safetensors, "safe_open", look)
    with pytest.raises(ModelSourceError, match=r"is damaged or cut off \(it became shorter"):
        SafetensorsCheckpoint(tmp_path)


def test_advice_that_the_kernel_does_not_take_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_WILLNEED", 12345)
    monkeypatch.setattr(mmap, "MADV_DONTNEED", 12345)
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tensor,) = SafetensorsCheckpoint(tmp_path).tensors()
    assert tensor.read().equal(torch.ones(2))
    tensor.done()


def _resident_kb(name: str) -> int:
    """Of this process's mapping of a file."""
    maps = Path("/proc/self/smaps").read_text()
    (block,) = re.findall(rf"{re.escape(name)}\n(.*?VmFlags)", maps, re.DOTALL)
    return int(re.search(r"Rss: +(\d+) kB", block)[1])  # type: ignore[index]
