from __future__ import annotations

import os
from pathlib import Path

import pytest

from headway.server.source.files import ModelFiles
from headway.server.source.read_ahead import read_ahead


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(file, advice) of each call to the kernel."""
    calls: list[tuple[str, int]] = []

    def record(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length) == (0, 0), "the whole file"
        calls.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, advice))

    monkeypatch.setattr(os, "posix_fadvise", record)
    return calls


def directory_of(tmp_path: Path, *names: str) -> ModelFiles:
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 100)
    return ModelFiles("safetensors", tmp_path, None, "model")


def test_all_weights_are_asked_for(tmp_path: Path, advised: list[tuple[str, int]]) -> None:
    thread = read_ahead(directory_of(tmp_path, "a.safetensors", "b.safetensors", "config.json"), 1000)
    assert thread is not None
    thread.join()
    assert advised == [("a.safetensors", os.POSIX_FADV_WILLNEED), ("b.safetensors", os.POSIX_FADV_WILLNEED)]


@pytest.mark.parametrize("names", [["model.gguf"], ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]])
def test_a_gguf_and_its_other_parts(names: list[str], tmp_path: Path, advised: list[tuple[str, int]]) -> None:
    for name in [*names, "another.gguf"]:
        (tmp_path / name).write_bytes(b"x" * 100)
    thread = read_ahead(ModelFiles("gguf", None, tmp_path / names[0], "model"), 400)
    assert thread is not None
    thread.join()
    assert [name for name, _ in advised] == names


def test_weights_that_fill_the_memory_are_left_to_the_loader(tmp_path: Path, advised: list[tuple[str, int]]) -> None:
    assert read_ahead(directory_of(tmp_path, "a.safetensors", "b.safetensors"), 399) is None
    assert advised == []


def test_damaged_files_are_left_to_the_loader(tmp_path: Path, advised: list[tuple[str, int]]) -> None:
    files = directory_of(tmp_path, "model.safetensors.index.json")
    assert read_ahead(files, 10_000) is None
    assert advised == []


def test_files_that_cannot_be_looked_at_are_left_to_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may go, or be another user's; what the engine says of them is a sentence."""
    files = directory_of(tmp_path, "model.safetensors")

    def refuse(self: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refuse)
    assert read_ahead(files, 10_000) is None
