"""Our reader of GGUF headers against the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from demo_model import demo_gguf

from headway.server.errors import ModelSourceError
from headway.server.source.gguf_metadata import read_gguf_metadata

VALUES = {
    "uint8": 200,
    "int8": -5,
    "uint16": 60000,
    "int16": -30000,
    "uint32": 4_000_000_000,
    "int32": -2_000_000_000,
    "uint64": 2**63 + 1,
    "int64": -(2**60),
    "float32": 0.5,
    "float64": 1e-300,
    "bool": True,
    "string": "wörld 😀",
}
ARRAYS: dict[str, list[object]] = {"strings": ["a", "", "ü"], "ints": [1, -2, 3], "floats": [0.5, 0.25], "bools": [True, False]}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "test")
    for name, value in VALUES.items():
        getattr(writer, f"add_{name}")(name, value)
    for name, values in ARRAYS.items():
        writer.add_array(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_every_type(written: Path) -> None:
    assert read_gguf_metadata(written) == {"general.architecture": "test", **VALUES, **ARRAYS}


def test_arrays_are_read_on_demand(written: Path) -> None:
    scalars = {"general.architecture": "test", **VALUES}
    assert read_gguf_metadata(written, arrays=False) == scalars
    assert read_gguf_metadata(written, arrays={"ints"}) == {**scalars, "ints": [1, -2, 3]}


def test_the_demo_model_equals_the_gguf_package() -> None:
    fields = gguf.GGUFReader(demo_gguf()).fields
    theirs = {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}
    assert read_gguf_metadata(demo_gguf()) == theirs


@pytest.mark.parametrize("size", [0, 3, 20, 30, 100, 300])
def test_cut_off_files(written: Path, size: int) -> None:
    written.write_bytes(written.read_bytes()[:size])
    with pytest.raises(ModelSourceError, match=r"m\.gguf"):
        read_gguf_metadata(written)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04", "does not begin with GGUF"),
        (b"GGUF\x01\0\0\0", "version 1 "),
        (b"GGUF\0\0\0\x03", "version of a big-endian machine"),
    ],
)
def test_other_files(tmp_path: Path, start: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(start + bytes(100))
    with pytest.raises(ModelSourceError, match=message):
        read_gguf_metadata(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="cannot be read: No such file"):
        read_gguf_metadata(tmp_path / "x.gguf")
