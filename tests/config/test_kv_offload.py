from __future__ import annotations

from typing import Any

import pytest

from headway.server.config.cache import CacheConfig
from headway.server.config.development import DevelopmentConfig
from headway.server.config.kv_offload import OffloadPlaces
from headway.server.config.kv_transfer import KVTransferConfig, kv_transfer_problems
from headway.server.config.lora import LoraConfig
from headway.server.config.plan import DeviceFacts, ModelFacts, make_plan, plan_num_blocks
from headway.server.config.server import ServerConfig, problems

GIB = 1 << 30
GOOD = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}
NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def transfer(size: float = 0, asked: dict[str, Any] | None = None, **places: Any) -> KVTransferConfig:
    extra = {"kv_connector_extra_config": places} if places else {}
    return KVTransferConfig(kv_offloading_size=size, kv_transfer_config={**asked, **extra} if asked is not None else {})


def places(config: KVTransferConfig) -> OffloadPlaces:
    assert kv_transfer_problems(config) == []
    assert config.offload is not None
    return config.offload.kv_connector_extra_config


def test_a_size_is_the_connector_with_these_bytes() -> None:
    assert places(transfer(1.5)) == OffloadPlaces(cpu_bytes_to_use=int(1.5 * GIB))
    assert places(transfer(0, GOOD, cpu_bytes_to_use=5)) == OffloadPlaces(cpu_bytes_to_use=5)
    both = places(transfer(1, GOOD, disk_path="/kv", disk_bytes_to_use=7))
    assert (both.cpu_bytes_to_use, both.disk_path, both.disk_bytes_to_use) == (GIB, "/kv", 7)
    assert places(transfer(0, GOOD, cpu_bytes_to_use=5, spec_name="CPUOffloadingSpec", block_size=16)).block_size == 16


def test_nothing_is_copied_unless_it_is_asked_for() -> None:
    assert transfer().offload is None
    assert transfer(0, NIXL).offload is None
    assert transfer(0, NIXL).settings is not None
    assert transfer(1).settings is None
    assert transfer(1).offload_bytes == GIB


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (transfer(1, NIXL), "--kv-offloading-size does not go with the NixlConnector"),
        (transfer(1, GOOD, cpu_bytes_to_use=5), "are the same: give one"),
        (transfer(0, GOOD), "OffloadingConnector needs a place"),
        (transfer(0, GOOD, disk_path="/kv"), "give both or neither"),
        (transfer(0, GOOD, disk_bytes_to_use=7), "give both or neither"),
        (transfer(0, GOOD, cpu_bytes_to_use=-1), "cpu_bytes_to_use: input should be greater than or equal to 0, got -1"),
        (
            transfer(0, GOOD, cpu_bytes=1),
            "'kv_connector_extra_config.cpu_bytes' is none of its keys; did you mean cpu_bytes_to_use?",
        ),
        (transfer(0, GOOD, cpu_bytes_to_use=1, spec_name="Mine"), "spec_name: input should be 'CPUOffloadingSpec', got 'Mine'"),
        (transfer(0, GOOD | {"kv_role": "kv_producer"}, cpu_bytes_to_use=1), "kv_role: input should be 'kv_both', got 'kv_producer'"),
        (transfer(0, GOOD | {"engine_id": "e"}, cpu_bytes_to_use=1), "'engine_id' is none of its keys"),
        (transfer(0, GOOD | {"kv_load_failure_policy": "fail"}, cpu_bytes_to_use=1), "input should be 'recompute', got 'fail'"),
    ],
)
def test_what_is_refused(config: KVTransferConfig, told: str) -> None:
    [problem] = kv_transfer_problems(config)
    assert told in problem


def test_what_goes_with_it_and_what_does_not() -> None:
    found = problems(
        ServerConfig(
            kv_transfer=transfer(1),
            development=DevelopmentConfig(enable_sleep_mode=True),
            cache=CacheConfig(enable_prefix_caching=False),
            lora=LoraConfig(enable_lora=True),
        )
    )
    assert [problem for problem in found if "--kv-offloading-size" in problem] == [
        "--enable-sleep-mode does not go with --kv-offloading-size: the pages that others read would move",
        "--no-enable-prefix-caching does not go with --kv-offloading-size: a block is found as a part of a prefix",
    ]


def test_a_cache_on_a_cpu_leaves_room_for_the_copies() -> None:
    facts = DeviceFacts("cpu", "cpu", 16 * GIB, 8 * GIB, True, has_fast_int8=False)

    def num_blocks(config: KVTransferConfig) -> int:
        options = ServerConfig.model_validate({"model": {"model": "m", "max_model_len": 4096}})
        options = options.model_copy(update={"kv_transfer": config})
        plan = make_plan(options, ModelFacts("bfloat16", 4096, False), facts)
        return plan_num_blocks(options, plan, facts, bytes_per_block=1 << 20, peak_activation_bytes=0)

    assert (num_blocks(transfer()), num_blocks(transfer(4))) == (2048, 1024)
