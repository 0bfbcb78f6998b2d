"""What a ready server says of its engines and their ranks."""

from __future__ import annotations

import msgspec
import pytest
from fake_engine import fake_info

from headway.server.banner import ready_banner
from headway.server.config.server import ServerConfig
from headway.server.stats import DraftModelInfo
from headway.server.words import GIB


@pytest.mark.parametrize(
    ("num_engines", "num_ranks", "said"),
    [
        (1, 1, ["2.00 GiB of weights)", "device   cpu", "(4.00 GiB, blocks of 16)"]),
        (2, 1, ["2.00 GiB of weights)", "device   cpu, 2 engines; what follows is of each", "(4.00 GiB, blocks of 16)"]),
        (1, 2, ["2.00 GiB of weights a rank)", "device   cpu", "(4.00 GiB a rank, blocks of 16)"]),
        (2, 2, ["2.00 GiB of weights a rank)", "device   cpu, 2 engines; what follows is of each", "(4.00 GiB a rank, blocks of 16)"]),
    ],
)
def test_bytes_are_told_with_what_they_are_of(num_engines: int, num_ranks: int, said: list[str]) -> None:
    topics = {"data_parallel": {"data_parallel_size": num_engines}, "parallel": {"tensor_parallel_size": num_ranks}}
    config = ServerConfig.model_validate({"model": {"model": "m"}, **topics})
    info = msgspec.structs.replace(fake_info(9), device="cpu", weight_bytes=2 * GIB, kv_cache_bytes=4 * GIB)
    lines = ready_banner(config, "m", info, 1.0)
    for line, part in zip(lines[1:4], said, strict=True):
        assert part in line
    assert lines[2].endswith(said[1])


def test_the_model_that_drafts_is_told_with_its_memory() -> None:
    asked = {"speculative_config": {"model": "small", "num_speculative_tokens": 4}}
    config = ServerConfig.model_validate({"model": {"model": "m"}, "speculative": asked})
    drafts = DraftModelInfo("small", "llama", "bf16", weight_bytes=GIB, kv_cache_bytes=GIB // 2)
    lines = ready_banner(config, "m", msgspec.structs.replace(fake_info(9), draft_model=drafts), 1.0)
    by = "small (llama, bf16, 1.00 GiB of weights, 0.50 GiB of KV cache)"
    assert f"  drafts   draft_model: up to 4 tokens a request and step, by {by}" in lines


def test_a_library_that_attends_is_told() -> None:
    config = ServerConfig.model_validate({"model": {"model": "m"}})
    assert not any(line.startswith("  kernels") for line in ready_banner(config, "m", fake_info(9), 1.0))
    lines = ready_banner(config, "m", msgspec.structs.replace(fake_info(9), attention="FlashAttention 2.8.3"), 1.0)
    assert "  kernels  attention by FlashAttention 2.8.3" in lines
