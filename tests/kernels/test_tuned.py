"""Tables of measured tiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headway.kernels import tuned
from headway.kernels.tuned import DecodeTiles, Tiles, forget_tables, trying, tuned_decode, tuned_tiles


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entries = {"1": {"block_m": 16, "block_n": 32, "block_k": 256, "num_splits": 8}, "64": {"block_m": 64, "block_n": 64, "block_k": 128}}
    decode = {"8": {"block_n": 64, "min_split_tokens": 128, "num_stages": 3}}
    (tmp_path / "a_chip.json").write_text(json.dumps({"int8_linear": {"4096x512": entries}, "paged_attention": {"4x128x2": decode}}))
    monkeypatch.setattr(tuned, "TABLES", tmp_path)
    forget_tables()
    yield
    forget_tables()


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


def test_decode_attention_goes_by_its_heads() -> None:
    assert tuned_decode("a_chip", (4, 128, 2), 5) == DecodeTiles(64, 128, num_stages=3)
    assert tuned_decode("a_chip", (4, 128, 2), 9) is None
    assert tuned_decode("a_chip", (4, 128, 1), 5) is None


def test_what_is_tried_goes_before_tables_in_its_thread_only() -> None:
    tried = Tiles(32, 32, 32)
    with ThreadPoolExecutor(1) as pool, trying(tried):
        assert tuned_tiles("int8_linear", "a_chip", (4096, 512), 1) == tried
        assert tuned_tiles("fp8_linear", "", (1, 1), 1) == tried
        assert tuned_decode("a_chip", (4, 128, 2), 5) == DecodeTiles(64, 128, num_stages=3)
        assert pool.submit(tuned_tiles, "int8_linear", "a_chip", (4096, 512), 1).result() == Tiles(16, 32, 256, 8)
    assert tuned_tiles("fp8_linear", "", (1, 1), 1) is None


def test_tables_of_the_package_can_be_read() -> None:
    for path in (Path(tuned.__file__).parent / "tables").glob("*.json"):
        for operation, sizes in json.loads(path.read_text()).items():
            kind = DecodeTiles if operation == "paged_attention" else Tiles
            for entries in sizes.values():
                assert all(int(limit) > 0 and kind(**entry) for limit, entry in entries.items())
