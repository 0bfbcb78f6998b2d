from __future__ import annotations

from headway.server.words import amount, cut, first_few, gib, plural


def test_counts() -> None:
    assert [plural(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_lists() -> None:
    assert [first_few(list("abcdef"[:n])) for n in (0, 1, 5, 6)] == ["", "a", "a, b, c, d, e", "a, b, c, d, e, ..."]


def test_long_texts() -> None:
    assert [cut(text, 5) for text in ("", "12345", "123456")] == ["", "12345", "12..."]


def test_bytes() -> None:
    assert [amount(n) for n in (0, 999, 1000, 98_362_432, 12_345_678_901)] == ["0 bytes", "999 bytes", "1.0 kB", "98.4 MB", "12.3 GB"]
    assert [gib(n) for n in (0, 1 << 30, 3 << 29)] == ["0.0 GiB", "1.0 GiB", "1.5 GiB"]
    assert gib(12_345_678_901, 2) == "11.50 GiB"
