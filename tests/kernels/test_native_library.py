"""The compiled kernels: which library is taken, and that those of all instruction sets do the same."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch
from grouped_lora_comparisons import compare_adapters
from kernel_cases import AttentionCase, AttentionInputs, assert_near, make_attention, run_decode, run_prefill
from kernel_comparisons import compare_rope
from matmul_comparisons import assert_close, packed_by, random_groups

from headway.kernels.cpu import grouped_matmul, linear, paged_attention, prefill_attention, rope
from headway.kernels.cpu.native import library as native
from headway.kernels.reference import grouped_matmul as reference_grouped
from headway.kernels.reference import paged_attention as reference_decode
from headway.kernels.reference import prefill_attention as reference_prefill

F32, BF16 = torch.float32, torch.bfloat16
FOLDER = Path(native.__file__).parent


def variants_of(case: AttentionCase) -> list[AttentionCase]:
    """In fp32 and in bf16, and with other pages."""
    options = ({}, {"dtype": BF16}, {"has_bf16_pages": True}, {"has_int8_pages": True}, {"has_int8_pages": True, "dtype": BF16})
    return [replace(case, **own) for own in options]  # type: ignore[arg-type]


def fresh_library() -> ctypes.CDLL | None:
    return native.library.__wrapped__()


@pytest.fixture
def built() -> None:
    if native.library() is None:
        pytest.skip("the CPU kernels were not built")


@pytest.fixture(params=["baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16"])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, built: None) -> Iterator[str]:
    """Runs the test with the library of each that this processor has."""
    name: str = request.param
    if name not in native._variants():
        pytest.skip("this processor can't run it")
    monkeypatch.setattr(native, "_variants", lambda: [name])
    loaded = fresh_library()
    assert loaded is not None, "all are built together"
    assert f"_{name}." in loaded._name
    monkeypatch.setattr(native, "library", lambda: loaded)
    native.function.cache_clear()
    yield name
    native.function.cache_clear()


def test_what_is_built_is_of_these_sources() -> None:
    """If this fails, build the kernels again: touch setup.py, then make setup."""
    in_sources = re.search(r"kInterface = (\d+);", (FOLDER / "common.h").read_text(encoding="utf-8"))
    assert in_sources is not None
    assert int(in_sources[1]) == native.INTERFACE
    for path in native._built():
        assert native._interface(ctypes.CDLL(str(path))) == native.INTERFACE, path.name


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("name", "beyond"), [("baseline", "%ymm"), ("avx2", "%zmm")])
def test_no_library_has_instructions_of_a_better_processor(name: str, beyond: str) -> None:
    """All are compiled from the same sources, two at a time: the objects of one must not end up in another."""
    found = [path for suffix in EXTENSION_SUFFIXES if (path := FOLDER / f"_{name}{suffix}").exists()]
    if platform.machine() not in ("x86_64", "AMD64") or not found or shutil.which("objdump") is None:
        pytest.skip("of x86, read by binutils")
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", str(found[0])], capture_output=True, text=True, check=True).stdout
    assert "%xmm" in code
    assert beyond not in code


@pytest.mark.usefixtures("built")
def test_a_library_of_other_sources_is_ignored(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert fresh_library() is not None
    assert not caplog.records
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    with caplog.at_level(logging.WARNING):
        assert fresh_library() is None
    (line,) = caplog.messages
    for path in native._built():
        assert path.name in line
    assert "make setup" in line


@pytest.mark.usefixtures("built")
def test_the_next_best_is_taken_instead(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    best, *others = native._built()
    if not others:
        pytest.skip("there is only one")
    ask = native._interface
    monkeypatch.setattr(native, "_interface", lambda library: 0 if library._name == str(best) else ask(library))
    with caplog.at_level(logging.WARNING):
        loaded = fresh_library()
    assert loaded is not None
    assert loaded._name == str(others[0])
    assert [best.name in message for message in caplog.messages] == [True]


def test_a_library_from_before_there_were_numbers() -> None:
    assert native._interface(ctypes.CDLL(None)) == 0


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(1, 64, 48), (7, 123, 50), (30, 96, 100), (131, 70, 1), (0, 64, 24)], ids=str)
def test_dense_linear(shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((rows, inputs), (outputs, inputs), (outputs,)))
    packed = linear.pack_linear(weight)
    assert isinstance(packed, linear.Panels)
    for add in (None, bias):
        found = linear.packed_linear(x, packed, add)
        assert_near(found, torch.nn.functional.linear(x, weight, add))
        for row in range(rows):
            assert linear.packed_linear(x[row : row + 1], packed, add)[0].equal(found[row]), "it does not depend on the others"


# Rows, inputs, outputs: few rows; many, whose tiles are brought to bytes, but not the last; more of all than is brought at a time.
@pytest.mark.parametrize("shape", [(13, 96, 40), (71, 90, 100), (262, 2090, 64)], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.usefixtures("instruction_set")
def test_grouped_matmul(bits: int, shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x, bias = 3 * torch.randn(rows, inputs, generator=generator), torch.randn(outputs, generator=generator)
    weight = random_groups(outputs, inputs, bits)
    weight.values[:, ::5] = 2**bits - 1  # no sum may saturate
    x[:, ::5] = 20
    packed = packed_by(grouped_matmul, weight)
    for add in (None, bias):
        expected = reference_grouped.grouped_linear(x, packed_by(reference_grouped, weight), add)
        found = grouped_matmul.grouped_linear(x, packed, add)
        assert_close(found, expected, error=20)
        for row in (*range(13), rows // 2, rows - 1):
            assert grouped_matmul.grouped_linear(x[row : row + 1], packed, add)[0].equal(found[row]), "it does not depend on the other rows"


@pytest.mark.usefixtures("instruction_set")
def test_grouped_lora() -> None:
    for ranks in ((16, 8, 5, 0), (3, 33, 48, 0)):
        compare_adapters(72, (40, 16, 19), ranks, [0, 1, -1, 2, 2, 0, 2, 3, -1, 2, 1, 2, 0] * 3)


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase((1, 17, 48, 100), num_heads=9, num_kv_heads=3, head_dim=64),
        AttentionCase((70, 15), num_heads=8, num_kv_heads=1, head_dim=80, sliding_window=30),
        AttentionCase((33, 64, 2), num_heads=11, num_kv_heads=1, head_dim=20, softcap=3.0, block_size=5),
        AttentionCase((16, 65), num_heads=2, num_kv_heads=2, head_dim=128),
        AttentionCase((40, 7), num_heads=4, num_kv_heads=2, head_dim=7, sliding_window=1, block_size=3),
    ],
    ids=str,
)
@pytest.mark.usefixtures("instruction_set")
def test_decode(case: AttentionCase) -> None:
    for variant in variants_of(case):
        inputs = make_attention(variant)
        assert_near(run_decode(paged_attention, variant, inputs), run_decode(reference_decode, variant, inputs))


# Eight rows and one, so that tasks have some; a last page that is full, one key more, pages that end within a vector.
@pytest.mark.parametrize(
    ("case", "shared_pages"),
    [
        (AttentionCase((160, 161, 175, 170, 199, 210, 161, 180, 240), num_heads=9, num_kv_heads=3), 10),
        (AttentionCase((160, 161, 175, 170), num_heads=9, num_kv_heads=3, sliding_window=172, softcap=3.0), 10),
        (AttentionCase((97, 96, 140, 95), num_heads=11, num_kv_heads=1, head_dim=20, softcap=2.0, block_size=5), 19),
        (AttentionCase((70, 70, 66, 81), num_heads=5, num_kv_heads=5, head_dim=128, block_size=33), 2),
    ],
    ids=str,
)
@pytest.mark.usefixtures("instruction_set", "one_thread")
def test_decode_of_rows_that_share_pages_has_the_bits_of_each_alone(case: AttentionCase, shared_pages: int) -> None:
    for variant in variants_of(case):
        inputs = make_attention(variant, shared_pages=shared_pages)
        _assert_bits_of_each_alone(variant, inputs)


@pytest.mark.usefixtures("instruction_set", "one_thread")
def test_decode_behind_two_prefixes_in_turn() -> None:
    """Beside a row of its own, and further tokens of one sequence: rows whose tables are the same."""
    case = AttentionCase((140, 150, 141, 142, 160, 143, 130, 144, 145, 139), num_heads=6, num_kv_heads=2, has_bf16_pages=True)
    inputs = make_attention(case)
    for row, prefix in ((2, 0), (3, 1), (5, 1), (6, 0), (7, 1), (8, 0), (9, 0)):
        inputs.block_tables[row, :8] = inputs.block_tables[prefix, :8]
    inputs.block_tables[2] = inputs.block_tables[0]
    _assert_bits_of_each_alone(case, inputs)


def _assert_bits_of_each_alone(case: AttentionCase, inputs: AttentionInputs) -> None:
    found = run_decode(paged_attention, case, inputs)
    assert_near(found, run_decode(reference_decode, case, inputs))
    for row in range(len(case.seq_lens)):
        rows = slice(row, row + 1)
        alone = replace(inputs, q=inputs.q[rows], block_tables=inputs.block_tables[rows], seq_lens=inputs.seq_lens[rows])
        assert run_decode(paged_attention, replace(case, seq_lens=case.seq_lens[rows]), alone).equal(found[rows]), row


@pytest.mark.usefixtures("instruction_set")
def test_decode_of_a_row_without_keys() -> None:
    case = AttentionCase((5, 3), num_heads=4, num_kv_heads=2, head_dim=64)
    inputs = make_attention(case)
    inputs.seq_lens[1] = 0
    found = run_decode(paged_attention, case, inputs)
    assert_near(found[:1], run_decode(reference_decode, case, inputs)[:1])
    assert found[1].count_nonzero() == 0


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase((100, 70, 150), (70, 1, 130), num_heads=9, num_kv_heads=3, head_dim=64, block_size=32),
        AttentionCase((200, 90), (70, 65), num_heads=4, num_kv_heads=2, head_dim=33, sliding_window=70, softcap=5.0),
        AttentionCase((70,), (66,), num_heads=14, num_kv_heads=1, head_dim=128, block_size=5),
    ],
    ids=str,
)
@pytest.mark.usefixtures("instruction_set")
def test_prefill(case: AttentionCase) -> None:
    for variant in variants_of(case):
        inputs = make_attention(variant)
        found, expected = (run_prefill(module, variant, inputs) for module in (prefill_attention, reference_prefill))
        rounds = variant.has_bf16_pages or variant.has_int8_pages
        compared = BF16 if rounds else variant.dtype  # a chip that multiplies bf16 rounds queries and probabilities too
        assert_near(found.to(compared), expected.to(compared))


@pytest.mark.usefixtures("instruction_set")
def test_rope() -> None:
    shape = (7, 6, 2, 20, 12, False)
    for dtype, pages in ((F32, F32), (F32, BF16), (BF16, BF16)):
        compare_rope(rope, shape, dtype, "cpu", contiguous_pages=pages)
    for dtype in (F32, BF16):
        compare_rope(rope, shape, dtype, "cpu", has_int8_pages=True)


@pytest.mark.usefixtures("built")
def test_threads_of_nested_regions_do_not_change_the_tasks() -> None:
    """As OMP_NUM_THREADS may say: within a parallel region there is another number of threads."""
    code = (
        "import torch; from headway.kernels.paged_attention import paged_attention as attend; "
        "q, pages = torch.ones(7, 64, 64), torch.ones(8, 16, 64, 64); tables = torch.arange(1, 8, dtype=torch.int32)[:, None]; "
        "out = attend(q, pages, pages, tables, torch.full((7,), 16, dtype=torch.int32), 1.0, max_seq_len=16); "
        "torch.testing.assert_close(out, torch.ones(7, 64, 64))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2,1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
