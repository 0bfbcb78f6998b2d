"""Tables of measured tiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from headway.kernels import tuned
from headway.kernels.tuned import Tiles, tuned_tiles


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entries = {"1": {"block_m": 16, "block_n": 32, "block_k": 256, "num_splits": 8}, "64": {"block_m": 64, "block_n": 64, "block_k": 128}}
    (tmp_path / "a_chip.json").write_text(json.dumps({"int8_linear": {"4096x512": entries}}))
    monkeypatch.setattr(tuned, "TABLES", tmp_path)
    _forget()
    yield
    _forget()


def _forget() -> None:
    tuned_tiles.cache_clear()
    tuned._table.cache_clear()


def test_an_entry_serves_as_many_rows_and_fewer() -> None:
    assert tuned_tiles("int8_linear", "a_chip", (4096, 512), 1) == Tiles(16, 32, 256, 8)
    assert tuned_tiles("int8_linear", "a_chip", (4096, 512), 2) == Tiles(64, 64, 128)
    assert tuned_tiles("int8_linear", "a_chip", (4096, 512), 64) == Tiles(64, 64, 128)


@pytest.mark.parametrize(
    ("operation", "chip", "sizes", "num_rows"),
    [
        ("int8_linear", "a_chip", (4096, 512), 65),
        ("int8_linear", "a_chip", (4096, 513), 1),
        ("fp8_linear", "a_chip", (4096, 512), 1),
        ("int8_linear", "another", (4096, 512), 1),
        ("int8_linear", "", (4096, 512), 1),
    ],
)
def test_what_is_not_in_a_table_is_estimated(operation: str, chip: str, sizes: tuple[int, ...], num_rows: int) -> None:
    assert tuned_tiles(operation, chip, sizes, num_rows) is None


def test_tables_of_the_package_can_be_read() -> None:
    names = {field.name for field in fields(Tiles)}
    for path in (Path(tuned.__file__).parent / "tables").glob("*.json"):
        for sizes in json.loads(path.read_text()).values():
            assert all(set(entry) <= names and int(limit) > 0 for entries in sizes.values() for limit, entry in entries.items())
