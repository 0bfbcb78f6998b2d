"""What a NixlConnector can't do without is missed before a model is looked for."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import claimed_port

from headway.server.config.kv_transfer import KVTransferConfig
from headway.server.config.server import ServerConfig
from headway.server.engine.kv.transfer.nixl.agent import Agent
from headway.server.engine.kv.transfer.nixl.pages import Pages
from headway.server.engine.kv.transfer.nixl.requirements import check_requirements, read_secret
from headway.server.errors import ConfigError
from headway.server.launch import _check_what_is_followed_or_run
from headway.server.layers.forward import LayerKV

pytest.importorskip("nixl_cu12")


def asked(role: str = "kv_both", host: str = "127.0.0.1", port: int | None = None, **extra: Any) -> KVTransferConfig:
    config = {"kv_connector": "NixlConnector", "kv_role": role, "kv_connector_extra_config": extra}
    return KVTransferConfig(kv_transfer_config=config, nixl_side_channel_host=host, nixl_side_channel_port=port or claimed_port())


def refusal(transfer: KVTransferConfig, ranks: Iterable[int] = (0,)) -> str:
    with pytest.raises(ConfigError) as refused:
        check_requirements(transfer, ranks)
    return str(refused.value)


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def test_what_is_all_there(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef\n")
    check_requirements(asked(key_file=str(key)), [0])
    assert read_secret(str(key)) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "can't be read: No such file"), (b" short \n", "holds 5 bytes: 16 at least"), (b"x" * 70_000, "holds more than 65536 bytes")],
)
def test_a_key_file_of_no_use(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    assert told in refusal(asked(key_file=str(tmp_path / "key")))


def test_a_backend_that_nixl_does_not_know() -> None:
    message = refusal(asked(backends=["UCX", "UXC"]))
    assert "NIXL has no backend UXC here, but" in message
    assert "UCX" in message.rpartition("but")[2]


def test_an_address_that_cannot_be_listened_at() -> None:
    told = "--nixl-side-channel-host to an address of this machine"
    assert told in refusal(asked(host="192.0.2.1"))
    assert told in refusal(asked(host="a..b"))
    check_requirements(asked("kv_consumer", host="192.0.2.1"), [0])  # which does not listen
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = asked(port=taken.getsockname()[1] - 1)
        assert "Address already in use" in refusal(other, ranks=range(2))
        parallel = {"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}  # where the second rank may be on another host
        if is_free(other.nixl_side_channel_port):
            _check_what_is_followed_or_run(ServerConfig.model_validate({"kv_transfer": other, "parallel": parallel}))


def test_the_server_asks_before_it_starts_anything() -> None:
    with pytest.raises(ConfigError, match="no backend UXC"):
        _check_what_is_followed_or_run(ServerConfig(kv_transfer=asked(backends=["UXC"])))


def test_a_backend_that_reaches_no_other_server_is_said_in_a_sentence() -> None:
    """It is known and can be made; that it is for files only shows when memory is registered with it."""
    pages = torch.zeros(2, 4, 2, 8)
    with pytest.raises(ConfigError, match=r"NIXL can't move this server's KV with POSIX .* leave it out to get UCX"):
        Agent("files-only", ["POSIX"], Pages([LayerKV(pages, pages)]))


def test_no_torch_is_imported_for_it() -> None:
    """It is asked by the API process, which has none."""
    code = (
        "import sys; from headway.server.engine.kv.transfer.nixl.requirements import agent_with_plugins as make; "
        "make('a', ['UCX']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
