"""Tables of measured tiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headway.kernels import tuned
from headway.kernels.tuned import LIBRARY, DecodeTiles, Tiles, forget_tables, trying, tuned_decode, tuned_tiles

SHIPPED = tuned.TABLES
MOST_SHARED_MEMORY = {"sm90_132": 227 * 1024}  # bytes a program may use


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


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_table_fits_the_launchers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry is found, and is what its launcher can run for as many rows as it serves and, down to the next entry, for fewer."""
    monkeypatch.setattr(tuned, "TABLES", SHIPPED)
    forget_tables()
    table = json.loads(path.read_text())
    assert table.keys() <= {"linear", "int8_linear", "fp8_linear", "int4_linear", "paged_attention"}
    for name, entries in table.pop("paged_attention", {}).items():
        for count, entry in entries.items():
            decode = tuned_decode(path.stem, tuple(map(int, name.split("x"))), int(count))
            assert decode == DecodeTiles(**entry)
            assert min(decode.min_split_tokens, decode.programs_per_multiprocessor, decode.num_stages) > 0
            assert all(map(_is_power_of_two, (decode.block_n, decode.num_warps)))
            assert decode.block_n >= 16, "the matrix units take 16 rows"
    for operation, sizes in table.items():
        for name, entries in sizes.items():
            for count, entry in entries.items():
                tiles = tuned_tiles(operation, path.stem, tuple(map(int, name.split("x"))), int(count))
                assert tiles == Tiles(**entry)
                _check_product(operation, int(count), tiles, MOST_SHARED_MEMORY[path.stem])


def _check_product(operation: str, count: int, tiles: Tiles, most_shared_memory: int) -> None:
    if tiles == LIBRARY:
        assert operation == "linear", "no other launcher knows what to take instead"
        return
    assert all(map(_is_power_of_two, (tiles.block_m, tiles.block_n, tiles.block_k, tiles.num_warps)))
    assert min(tiles.num_splits, tiles.num_stages) > 0
    if operation == "int4_linear" and count == 1:
        assert (tiles.block_m, tiles.num_splits) == (1, 1), "one row has a kernel of its own"
        return
    if operation != "linear":
        assert min(tiles.block_m, tiles.block_n, tiles.block_k) >= 16, "the matrix units take 16 rows"
        return
    assert tiles.num_splits == 1
    assert tiles.block_m == (1 if count == 1 else 16), "one row has a kernel of its own, and few rows are one tile"
    assert count <= 16, "from 17 rows on the launcher asks no table"
    if count > 1:
        assert min(tiles.block_n, tiles.block_k) >= 16
        assert 2 * (tiles.block_n + tiles.block_m) * tiles.block_k * tiles.num_stages <= most_shared_memory


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
