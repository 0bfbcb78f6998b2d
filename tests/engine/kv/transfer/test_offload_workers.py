"""A rank's copies and files: what comes back is what went, and nothing else ever is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from polling import wait_until

from headway.server.config.kv_transfer import KVTransferConfig
from headway.server.config.server import ServerConfig
from headway.server.engine.kv.transfer.offload.files import HEADER_BYTES, BlockFiles, Unreadable
from headway.server.engine.kv.transfer.offload.pages import HostBlocks, HostPages
from headway.server.engine.kv.transfer.offload.worker import OffloadWorker
from headway.server.engine.kv.transfer.orders import (
    Copied,
    Discard,
    Found,
    Load,
    Loaded,
    LoadedBlock,
    Report,
    Save,
    Saved,
    SavedBlock,
)
from headway.server.errors import ConfigError
from headway.server.launch import _check_what_is_followed_or_run
from headway.server.layers.forward import LayerKV

LAYOUT = bytes(32)
HASHES = [bytes([index]) * 32 for index in range(40)]
MakeFiles = Callable[..., BlockFiles]


def pages(seed: int = 0) -> list[LayerKV]:
    """Three layers of 40 blocks of 2 tokens, of which the last has wider heads."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(40, 2, 2, 4), (40, 2, 2, 4), (40, 2, 2, 6)]
    return [LayerKV(*(torch.rand(shape, generator=generator).bfloat16() for _ in range(2))) for shape in shapes]


BLOCK_BYTES = 2 * 2 * 2 * (4 + 4 + 6) * 2


@pytest.fixture
def make_files(tmp_path: Path) -> Iterator[MakeFiles]:
    made: list[BlockFiles] = []

    def make(name: str = "engine-0-rank-0", layout: bytes = LAYOUT, block_bytes: int = BLOCK_BYTES) -> BlockFiles:
        made.append(BlockFiles(tmp_path, name, layout, block_bytes))
        return made[-1]

    yield make
    for files in made:
        files.close()


def reports(worker: OffloadWorker, last: type[Report]) -> list[Report]:
    found: list[Report] = []

    def is_there() -> bool:
        found.extend(worker.take_reports())
        return any(isinstance(report, last) for report in found)

    wait_until(is_there)
    return found


def kept(kv: list[LayerKV], block_ids: list[int]) -> list[torch.Tensor]:
    return [tensor[block_ids].clone() for layer in kv for tensor in (layer.k, layer.v)]


@pytest.mark.parametrize("has_memory", [True, False])
def test_what_comes_back_is_what_went(tmp_path: Path, has_memory: bool) -> None:
    kv = pages()
    files = None if has_memory else BlockFiles(tmp_path, "e", LAYOUT, BLOCK_BYTES)
    worker = OffloadWorker(HostPages(kv), HostBlocks(8, BLOCK_BYTES, is_pinned=False) if has_memory else None, files, is_pinned=False)
    before = kept(kv, [3, 30, 7])
    blocks = [SavedBlock(block, HASHES[block], index if has_memory else None, not has_memory) for index, block in enumerate((3, 30, 7))]
    worker.order([Save(1, blocks)])
    told = reports(worker, Saved)
    assert [report for report in told if isinstance(report, Copied)] == [Copied(1)]
    [saved] = [report for report in told if isinstance(report, Saved)]
    assert (saved.is_copied, saved.is_filed, saved.num_bytes) == (True, True, 3 * BLOCK_BYTES)
    for layer in kv:
        layer.k.zero_()
        layer.v.zero_()
    worker.order([Load(2, [LoadedBlock(to, block.block_hash, block.slot) for to, block in zip((5, 3, 0), blocks, strict=True)])])
    [loaded] = reports(worker, Loaded)
    assert isinstance(loaded, Loaded)
    assert (loaded.error, loaded.lost, loaded.num_bytes) == (None, [], 3 * BLOCK_BYTES)
    assert all(torch.equal(now, then) for now, then in zip(kept(kv, [5, 3, 0]), before, strict=True))
    assert all(not tensor[[1, 2, 4, 6, 30]].any() for layer in kv for tensor in (layer.k, layer.v)), "no other block is touched"
    worker.close()


def test_a_load_of_many_blocks_and_one_that_is_gone(tmp_path: Path) -> None:
    kv = pages()
    worker = OffloadWorker(HostPages(kv), None, BlockFiles(tmp_path, "e", LAYOUT, BLOCK_BYTES), is_pinned=False)
    before = kept(kv, list(range(32)))
    for first in (0, 16):
        worker.order([Save(first, [SavedBlock(block, HASHES[block], None, True) for block in range(first, first + 16)])])
    worker.order([Discard([HASHES[20]]), Save(99, [])])
    wait_until(lambda: any(isinstance(report, Saved) and report.save_id == 99 for report in worker.take_reports()))
    for layer in kv:
        layer.k.zero_()
        layer.v.zero_()
    worker.order([Load(1, [LoadedBlock(block, HASHES[block], None) for block in range(32)])])
    [loaded] = reports(worker, Loaded)
    assert isinstance(loaded, Loaded)
    assert loaded.lost == [HASHES[20]]
    assert loaded.error == "1 blocks of the prompt's KV are not there any more."
    there = [block for block in range(32) if block != 20]
    assert all(torch.equal(now, then[there]) for now, then in zip(kept(kv, there), before, strict=True))
    worker.close()


def test_blocks_that_can_not_be_copied_back_are_not_offered_again() -> None:
    class Broken(HostPages):
        def write(self, *_: object) -> None:
            raise RuntimeError("the bus is gone")

    worker = OffloadWorker(Broken(pages()), HostBlocks(8, BLOCK_BYTES, is_pinned=False), None, is_pinned=False)
    worker.order([Load(1, [LoadedBlock(block, HASHES[block], block) for block in range(3)])])
    [loaded] = reports(worker, Loaded)
    assert isinstance(loaded, Loaded)
    assert (loaded.error, loaded.lost) == ("The prompt's KV could not be copied back: the bus is gone.", HASHES[:3])
    worker.close()


def test_files_that_can_not_be_written_are_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = OffloadWorker(HostPages(pages()), None, BlockFiles(tmp_path, "e", LAYOUT, BLOCK_BYTES), is_pinned=False)
    (next(tmp_path.iterdir()) / HASHES[1].hex()[:2]).write_text("in the way")
    for save_id in (1, 2):
        worker.order([Save(save_id, [SavedBlock(0, HASHES[1], None, True)])])
        [saved] = [report for report in reports(worker, Saved) if isinstance(report, Saved)]
        assert (saved.is_copied, saved.is_filed) == (True, False)
    assert caplog.text.count("files can't be written") == 1
    worker.close()


def test_what_waits_is_written_before_the_end_and_found_again(tmp_path: Path) -> None:
    worker = OffloadWorker(HostPages(pages()), None, BlockFiles(tmp_path, "e", LAYOUT, BLOCK_BYTES), is_pinned=False)
    worker.order([Save(index, [SavedBlock(index, HASHES[index], None, True)]) for index in range(8)])
    worker.close()
    files = BlockFiles(tmp_path, "e", LAYOUT, BLOCK_BYTES)
    again = OffloadWorker(HostPages(pages()), None, files, is_pinned=False)
    [found] = again.take_reports()
    assert isinstance(found, Found)
    assert sorted(found.block_hashes) == HASHES[:8]
    again.close()


def read(files: BlockFiles, block_hash: bytes) -> bytes:
    into = bytearray(BLOCK_BYTES)
    files.read(block_hash, memoryview(into))
    return bytes(into)


def content(fill: int) -> memoryview:
    return memoryview(bytes([fill]) * BLOCK_BYTES)


def path_of(block_hash: bytes, parent: Path) -> Path:
    [path] = parent.glob(f"*/*/{block_hash.hex()}")
    return path


def test_a_file_is_private_and_the_directory_too(make_files: MakeFiles, tmp_path: Path) -> None:
    files = make_files()
    files.write(HASHES[1], content(7))
    assert read(files, HASHES[1]) == bytes(content(7))
    path = path_of(HASHES[1], tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    files.remove(HASHES[1])
    files.remove(HASHES[1])
    with pytest.raises(Unreadable):
        read(files, HASHES[1])


@pytest.mark.parametrize("at", [3, 20, 45, HEADER_BYTES - 1, HEADER_BYTES + 10])
def test_a_damaged_file_is_no_block_and_goes(make_files: MakeFiles, tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture) -> None:
    files = make_files()
    for block_hash in HASHES[:2]:
        files.write(block_hash, content(1))
        path = path_of(block_hash, tmp_path)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(Unreadable):
            read(files, block_hash)
        assert not path.exists()
    assert caplog.text.count("is damaged") == 1


def test_another_block_in_its_place_is_no_block(make_files: MakeFiles, tmp_path: Path) -> None:
    files = make_files()
    files.write(HASHES[1], content(1))
    files.write(HASHES[2], content(2))
    path_of(HASHES[2], tmp_path).replace(path_of(HASHES[1], tmp_path))
    with pytest.raises(Unreadable):
        read(files, HASHES[1])


def test_only_blocks_are_found_and_the_oldest_first(make_files: MakeFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = make_files()
    for index in (1, 2, 3, 4):
        files.write(HASHES[index], content(index))
        os.utime(path_of(HASHES[index], tmp_path), (100 - index, 100 - index))
    cut = path_of(HASHES[4], tmp_path)
    cut.write_bytes(cut.read_bytes()[:-1])
    folder = cut.parent
    (folder / f"{HASHES[9].hex()}.new").write_text("half")
    (folder / "notes.txt").write_text("foreign")
    assert files.find() == [HASHES[3], HASHES[2], HASHES[1]]
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt"]
    assert "1 files" in caplog.text
    read(files, HASHES[3])
    assert files.find()[-1] == HASHES[3], "what is read is used"


def test_those_of_another_model_are_not_seen(make_files: MakeFiles) -> None:
    ours, theirs = make_files(), make_files(layout=b"x" * 32)
    ours.write(HASHES[1], content(1))
    assert theirs.find() == []


def test_a_directory_has_one_server(make_files: MakeFiles, tmp_path: Path) -> None:
    make_files()
    with pytest.raises(ConfigError, match="another server uses"):
        make_files()
    make_files(name="engine-1-rank-0")
    open_one = next(tmp_path.glob("*engine-1*"))
    open_one.chmod(0o755)
    with pytest.raises(ConfigError, match="is open to other users"):
        make_files(name="engine-1-rank-0")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be used"):
        BlockFiles(tmp_path / "file", "e", LAYOUT, BLOCK_BYTES)


def test_a_place_for_files_is_tried_before_the_server_starts_anything(tmp_path: Path) -> None:
    def asked(path: Path) -> ServerConfig:
        places = {"disk_path": str(path), "disk_bytes_to_use": 10**9}
        config = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": places}
        return ServerConfig(kv_transfer=KVTransferConfig(kv_transfer_config=config))

    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "kv", "Not a directory"),
        (Path("/proc/kv"), "No such file"),
    ):
        with pytest.raises(ConfigError, match=f"disk_path {path} can't be used: {why}"):
            _check_what_is_followed_or_run(asked(path))
    _check_what_is_followed_or_run(asked(tmp_path / "a" / "kv"))
    assert list((tmp_path / "a" / "kv").iterdir()) == []
