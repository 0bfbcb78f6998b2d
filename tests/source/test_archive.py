"""Packed models: unpacked once, and nothing that an archive may hold gets out of its directory."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import make_tiny_model
from trees import contents

from headway.server.errors import ModelSourceError
from headway.server.source import archive as archive_module
from headway.server.source import progress
from headway.server.source.archive import unpacked
from headway.server.source.resolve import resolve_model


def member(name: str, content: bytes = b"{}", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


MODEL = (member("config.json"), member("model.safetensors", b"weights"))


def refused(archive: Path, cache: Path, match: str) -> None:
    with pytest.raises(ModelSourceError, match=match) as caught:
        unpacked(archive, cache)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.suffix != ".lock" and path != cache / "archives"]


@pytest.mark.parametrize(("name", "mode"), [("m.tar.gz", "w:gz"), ("m.tgz", "w:gz"), ("m.tar", "w"), ("plain.tar.gz", "w")])
def test_unpacked_once(name: str, mode: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / name, *MODEL, mode=mode)
    lines: list[str] = []
    directory = unpacked(archive, tmp_path / "cache", lines.append)
    assert contents(directory) == {"config.json": b"{}", "model.safetensors": b"weights"}
    assert directory.is_relative_to(tmp_path / "cache")
    assert lines == [f"unpacking {archive} ({archive.stat().st_size} bytes) into {directory}"] or "kB" in lines[0]
    (directory / "config.json").write_text("kept")
    assert unpacked(archive, tmp_path / "cache") == directory
    assert (directory / "config.json").read_text() == "kept"
    # Another content at the same path.
    pack(archive, member("config.json", b"other"), mode=mode)
    assert contents(unpacked(archive, tmp_path / "cache")) == {"config.json": b"other"}


def test_models_in_archives(tmp_path: Path) -> None:
    """A real model in a directory of the archive, alone in a read-only model directory beside code."""
    model = make_tiny_model("llama", tmp_path / "llama", max_shard_size="50KB").path
    opt = tmp_path / "opt"
    (opt / "code").mkdir(parents=True)
    with tarfile.open(opt / "model.tar.gz", "w:gz") as tar:
        tar.add(model, "llama")
    opt.chmod(0o555)
    before = sorted(opt.rglob("*"))
    files = resolve_model(str(opt), cache_dir=tmp_path / "cache")
    assert (files.kind, files.name) == ("safetensors", str(opt))
    assert contents(files.path) == contents(model)
    assert files.path.is_relative_to(tmp_path / "cache")
    assert resolve_model(str(opt / "model.tar.gz"), cache_dir=tmp_path / "cache").path == files.path
    assert sorted(opt.rglob("*")) == before


def test_archives_without_a_model(tmp_path: Path) -> None:
    archive = pack(tmp_path / "m.tar.gz", member("pytorch_model.bin"))
    with pytest.raises(ModelSourceError, match=r"The archive .*m\.tar\.gz was unpacked, and .* only as pytorch_model\.bin: pickle"):
        resolve_model(str(archive), cache_dir=tmp_path / "cache")
    pack(tmp_path / "n.tar.gz", *MODEL)
    with pytest.raises(ModelSourceError, match=r"holds 2 archives \(m\.tar\.gz, n\.tar\.gz\); name the one to serve"):
        resolve_model(str(tmp_path), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("evil", "match"),
    [
        (member("../escaped"), r"the path '\.\./escaped' of its member '\.\./escaped' leads outside\."),
        (member("a/../../escaped"), "leads outside"),
        (member("/tmp/escaped"), "the path '/tmp/escaped' .* leads outside"),
        (member("l", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "the link '/etc/passwd' of its member 'l' leads outside; pack it"),
        (member("l", b"", type=tarfile.SYMTYPE, linkname="../../x"), "the link .* leads outside"),
        (member("l", b"", type=tarfile.LNKTYPE, linkname="../x"), "the link .* leads outside"),
        (member("d", b"", type=tarfile.CHRTYPE), "its member 'd' is neither a file nor a directory nor a link"),
        (member("f", b"", type=tarfile.FIFOTYPE), "its member 'f' is neither a file nor a directory nor a link"),
        (member("l", b"", type=tarfile.LNKTYPE, linkname="nowhere"), "is no whole tar archive"),
        (member("s", b"", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": "1000"}), "its member 's' is sparse; pack it without"),
    ],
)
def test_members_that_do_harm(evil: tuple[tarfile.TarInfo, bytes], match: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = pack(inside / "m.tar.gz", *MODEL, evil)
    refused(archive, inside / "cache", match)
    assert os.listdir(tmp_path) == ["inside"]


def test_folders_without_end(tmp_path: Path) -> None:
    """Made a step deeper with each member: too deep to be removed again."""
    deep = [member("a/" * depth + "f") for depth in (20, 400, 800, 1200, 1600)]
    refused(pack(tmp_path / "m.tar.gz", *MODEL, *deep), tmp_path / "cache", r"member 'a/a/.* lies more than 32 folders deep")


def test_links_that_stay_inside(tmp_path: Path) -> None:
    links = [
        member("a.json", b"", type=tarfile.SYMTYPE, linkname="config.json"),
        member("b", b"", type=tarfile.LNKTYPE, linkname="config.json"),
    ]
    directory = unpacked(pack(tmp_path / "m.tar", *MODEL, *links, mode="w"), tmp_path / "cache")
    assert (directory / "a.json").read_bytes() == (directory / "b").read_bytes() == b"{}"


def test_set_user_id_is_not_kept(tmp_path: Path) -> None:
    directory = unpacked(pack(tmp_path / "m.tar", member("config.json", mode=0o6777, uid=4711), mode="w"), tmp_path / "cache")
    assert directory.joinpath("config.json").stat().st_mode & 0o7111 == 0
    assert directory.joinpath("config.json").stat().st_uid == os.geteuid()


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = pack(tmp_path / "zeros.tar.gz", member("model.safetensors", bytes(40_000_000)))
    monkeypatch.setattr(archive_module, "_MAX_SMALL_BYTES", 10_000_000)
    refused(zeros, tmp_path / "cache", r"zeros\.tar\.gz unpacks to more than 10\.0 MB, which is what the disk has room for or 50 times")
    many = pack(tmp_path / "many.tar.gz", *(member(f"{i}", b"") for i in range(40)))
    monkeypatch.setattr(archive_module, "_MAX_MEMBERS", 30)
    refused(many, tmp_path / "cache", "holds more than 30 files")
    # A header that says how long the next header is: all of it would be kept in memory.
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 32
    with gzip.open(tmp_path / "header.tar.gz", "wb") as file:
        file.write(info.tobuf() + bytes(4096))
    refused(tmp_path / "header.tar.gz", tmp_path / "cache", r"is refused: it has a header of 4\.3 GB")
    deep = tarfile.TarInfo("x")
    deep.type = tarfile.XHDTYPE
    with open(tmp_path / "deep.tar", "wb") as plain:
        plain.write(deep.tobuf() * 5000)
    refused(tmp_path / "deep.tar", tmp_path / "cache", "is no whole tar archive")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no archive", lambda data: b""])
def test_damaged_archives(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    archive = pack(tmp_path / "m.tar.gz", member("model.safetensors", os.urandom(100_000)))
    archive.write_bytes(damage(archive.read_bytes()))
    refused(archive, tmp_path / "cache", r"m\.tar\.gz is no whole tar archive \(.*\); copy it again")


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "m.tar", member("model.safetensors", bytes(100_000)), mode="w")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    refused(
        archive, tmp_path / "cache", r"What .*m\.tar holds needs 1\d\d\.\d kB more on the disk and .* has 50\.0 kB free; .* HEADWAY_CACHE"
    )
    packed = pack(tmp_path / "p.tar.gz", member("model.safetensors", bytes(100_000)))
    refused(packed, tmp_path / "cache", r"unpacks to more than 50\.0 kB, which is what the disk has room for")


def test_what_a_killed_process_left_is_no_model(tmp_path: Path) -> None:
    archive = pack(tmp_path / "m.tar.gz", *MODEL)
    directory = unpacked(archive, tmp_path / "cache")
    left = directory.rename(directory.with_name(directory.name + ".partial"))
    (left / "half.safetensors").write_bytes(b"")
    assert set(contents(unpacked(archive, tmp_path / "cache"))) == {"config.json", "model.safetensors"}
    assert not left.exists()


def test_several_at_once(tmp_path: Path) -> None:
    archive = pack(tmp_path / "m.tar.gz", *MODEL)
    lines: list[str] = []
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(unpacked(archive, tmp_path / "cache", lines.append))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len([line for line in lines if line.startswith("unpacking")]) == 1


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    archive = pack(tmp_path / "m.tar.gz", member("model.safetensors", os.urandom(3_000_000)))
    lines: list[str] = []
    unpacked(archive, tmp_path / "cache", lines.append)
    assert lines[-1].startswith(f"unpacking {archive}: 100% of 3.0 MB, ")
