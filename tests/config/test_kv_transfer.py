from __future__ import annotations

from typing import Any

import pytest

from headway.server.api.protocol.kv_transfer import KVTransferParams
from headway.server.config.data_parallel import DataParallelConfig
from headway.server.config.development import DevelopmentConfig
from headway.server.config.kv_transfer import HIGHEST_SIDE_CHANNEL_PORT, KVTransferConfig, kv_transfer_problems, kv_transfer_warnings
from headway.server.config.parallel import ParallelConfig
from headway.server.config.server import ServerConfig, problems, warnings

GOOD = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def transfer(**asked: Any) -> KVTransferConfig:
    return KVTransferConfig(kv_transfer_config=asked)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"kv_role": "kv_both"}, "kv_connector must be NixlConnector or OffloadingConnector, got None"),
        ({"kv_connector": "LMCacheConnectorV1"}, "kv_connector must be NixlConnector or OffloadingConnector, got 'LMCacheConnectorV1'"),
        ({"kv_connector": "NixlConnector"}, "kv_role is missing"),
        (GOOD | {"kv_role": "kv_reader"}, "kv_role: input should be 'kv_producer', 'kv_consumer' or 'kv_both', got 'kv_reader'"),
        (GOOD | {"kv_rank": 0}, "kv_rank has no meaning for NixlConnector: leave it out"),
        (GOOD | {"kv_rolle": 0}, "'kv_rolle' is none of its keys; did you mean kv_role?"),
        (GOOD | {"kv_load_failure_policy": "retry"}, "kv_load_failure_policy: input should be 'fail' or 'recompute', got 'retry'"),
        (
            GOOD | {"kv_connector_extra_config": {"allowed_peer": []}},
            "'kv_connector_extra_config.allowed_peer' is none of its keys; did you mean allowed_peers?",
        ),
        *(
            (GOOD | {"kv_connector_extra_config": {"allowed_peers": ["prefill.example", peer]}}, f"such as 10.0.0.0/24, got {peer!r}")
            for peer in ("10.0.0.0/99", "10.0.0.300", "http://prefill:8001", "prefill:8001", "10.0.0.0-10.0.0.9", "")
        ),
        (GOOD | {"kv_connector_extra_config": {"checksum": "yes"}}, "kv_connector_extra_config.checksum: input should be a valid boolean"),
    ],
)
def test_what_is_refused(asked: dict[str, Any], told: str) -> None:
    [problem] = kv_transfer_problems(transfer(**asked))
    assert problem.startswith("--kv-transfer-config: ")
    assert told in problem


def test_what_is_taken() -> None:
    assert kv_transfer_problems(transfer()) == kv_transfer_problems(transfer(**GOOD)) == []
    assert transfer().settings is None
    settings = transfer(**GOOD).settings
    assert settings is not None
    assert (settings.keeps, settings.fetches, settings.kv_load_failure_policy) == (True, True, "fail")


@pytest.mark.parametrize(
    ("peers", "host", "is_allowed"),
    [
        (None, "localhost", True),
        (None, "127.0.0.5", True),
        (None, "::1", True),
        (None, "10.0.0.1", False),
        (None, "prefill.example", False),
        (None, "localhost.example", False),
        (None, "127.0.0.1.example", False),
        (["10.0.0.0/24", "prefill.example"], "10.0.0.9", True),
        (["10.0.0.0/24", "prefill.example"], "prefill.example", True),
        (["10.0.0.0/24", "prefill.example"], "10.0.1.9", False),
        (["10.0.0.0/24", "prefill.example"], "localhost", False),
        (["ip-10-0-0-5.ec2.internal", "p1", "1p-a"], "p1", True),
    ],
)
def test_peers(peers: list[str] | None, host: str, is_allowed: bool) -> None:
    settings = transfer(**GOOD, **({} if peers is None else {"kv_connector_extra_config": {"allowed_peers": peers}})).settings
    assert settings is not None
    assert settings.may_fetch_from(host) is is_allowed


def test_an_open_side_channel_is_warned_of() -> None:
    def warned(host: str, **extra: Any) -> list[str]:
        asked = GOOD | {"kv_connector_extra_config": extra}
        return kv_transfer_warnings(KVTransferConfig(kv_transfer_config=asked, nixl_side_channel_host=host))

    assert warned("localhost") == warned("10.0.0.1", key_file="/run/key") == []
    [warning] = warned("10.0.0.1")
    assert "key_file" in warning


def test_what_does_not_go_with_it() -> None:
    both = ServerConfig(kv_transfer=transfer(**GOOD), development=DevelopmentConfig(enable_sleep_mode=True))
    assert [problem for problem in problems(both) if "--kv-transfer-config" in problem] == [
        "--enable-sleep-mode does not go with --kv-transfer-config: the pages that others read would move"
    ]


@pytest.mark.parametrize("asked", [GOOD, {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}])
def test_it_goes_with_every_layout_of_ranks(asked: dict[str, Any]) -> None:
    extra = {"kv_connector_extra_config": {"cpu_bytes_to_use": 10**9}} if asked is not GOOD else {}
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "prefill_context_parallel_size": 2}
    parallel = ParallelConfig.model_validate({**sizes, "distributed_executor_backend": "ray"})
    assert problems(ServerConfig(kv_transfer=transfer(**asked, **extra), parallel=parallel)) == []


def test_more_ranks_than_a_request_can_name_are_refused() -> None:
    parallel = ParallelConfig(tensor_parallel_size=16, pipeline_parallel_size=8)
    assert problems(ServerConfig(kv_transfer=transfer(**GOOD), parallel=parallel)) == [
        "--kv-transfer-config with NixlConnector is for 64 ranks at most, and --tensor-parallel-size 16 with --pipeline-parallel-size 8 "
        "takes 128: lower one of them"
    ]


def test_ranks_on_other_hosts_are_warned_of() -> None:
    config = ServerConfig(kv_transfer=transfer(**GOOD), parallel=ParallelConfig(distributed_executor_backend="ray"))
    [warning] = [warning for warning in warnings(config) if "key_file" in warning]
    assert warning.startswith("whoever reaches other hosts of the Ray cluster, where ranks listen at their addresses, may ask for KV")


def test_peers_that_are_believed_without_a_key_are_warned_of() -> None:
    def warned(**changes: Any) -> list[str]:
        asked = GOOD | {"kv_role": "kv_consumer"} | changes
        return kv_transfer_warnings(KVTransferConfig(kv_transfer_config=asked))

    [warning] = warned(kv_connector_extra_config={"allowed_peers": ["localhost", "10.0.0.0/24"]})
    assert warning.startswith("any process on 10.0.0.0/24 of allowed_peers may answer with KV of its own making")
    assert warned() == warned(kv_connector_extra_config={"allowed_peers": ["127.0.0.1"]}) == []
    assert warned(kv_connector_extra_config={"allowed_peers": ["10.0.0.0/24"], "key_file": "/k"}) == []
    assert warned(kv_connector_extra_config={"allowed_peers": ["10.0.0.0/24"]}, kv_role="kv_producer") == []


def test_each_rank_has_a_port_that_a_request_may_name() -> None:
    def found(port: int, num_engines: int, **parallel: int) -> list[str]:
        topics = {"nixl_side_channel_port": port}
        config = ServerConfig(
            kv_transfer=transfer(**GOOD).model_copy(update=topics),
            data_parallel=DataParallelConfig(data_parallel_size=num_engines),
            parallel=ParallelConfig(**parallel),  # type: ignore[arg-type]
        )
        return [problem for problem in problems(config) if "--nixl-side-channel-port" in problem]

    highest = HIGHEST_SIDE_CHANNEL_PORT
    assert found(highest, 1) == found(highest - 1, 2) == []
    assert KVTransferParams.model_validate({"remote_port": highest}).remote_port == highest
    assert found(highest, 2) == ["--nixl-side-channel-port 65471 leaves no room for 2 ports up to 65471, one a rank: choose a lower one"]
    assert found(highest + 1, 1)
    eight = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "prefill_context_parallel_size": 2}
    assert found(highest - 7, 1, **eight) == []
    assert "leaves no room for 8 ports" in found(highest - 6, 1, **eight)[0]
