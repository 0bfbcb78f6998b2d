"""The first lines of a container, and the facts in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from entrypoint_process import NOWHERE
from host_files import add_torch, write

from headway.entrypoint.banner import banner
from headway.entrypoint.environment import read_options
from headway.entrypoint.nvidia import Gpus, TorchBuild
from headway.entrypoint.platform import Place, Platform, place, read_platform

HOST = Platform(
    gpus=Gpus(0),
    torch=TorchBuild("2.13.0+cpu", None),
    cpu_name="AMD EPYC 9R14",
    num_cores=4,
    num_host_cores=64,
    memory_bytes=8 << 30,
    host_memory_bytes=128 << 30,
    shm_bytes=64 << 20,
    cache=Place(Path("/tmp/headway"), True, 35 << 30),
    uid=1000,
    gid=0,
    is_root_read_only=True,
)


def lines(environ: dict[str, str], host: Platform = HOST) -> list[str]:
    return banner(read_options([], {"SM_VLLM_MODEL": "demo", **environ}, NOWHERE), host)


def test_what_it_says() -> None:
    said = lines({"SM_VLLM_API_KEY": "s3cret"})
    assert said[0].startswith("headway ")
    assert "torch 2.13.0+cpu" in said[0]
    assert said[1:] == [
        "  model    demo   (environment SM_VLLM_MODEL)",
        "  device   --device auto: no GPU here, the CPU computes",
        "  cpu      AMD EPYC 9R14, 4 cores of the host's 64",
        "  memory   8.0 GiB of the host's 128.0 GiB",
        "  shm      64 MiB; of no matter, the server's processes talk over sockets in the temporary directory",
        "  cache    /tmp/headway, 35.0 GiB free",
        "  user     uid 1000, gid 0, read-only root file system",
        "  host = 0.0.0.0   (image default)",
        "  port = 8080   (image default)",
        "  api-key = ***   (environment SM_VLLM_API_KEY)",
        "  max-request-body-bytes = 26214400   (image default)",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {
                "gpus": Gpus(2, ("NVIDIA A10G", "NVIDIA A10G"), "535.183.01", (12, 2)),
                "torch": TorchBuild("2.13.0+cu130", (13, 0)),
            },
            "  device   --device auto: 2 GPUs (NVIDIA A10G), driver 535.183.01, CUDA up to 12.2; torch is built for CUDA 13.0",
        ),
        (
            {"gpus": Gpus(1, library_problem="missing"), "torch": None},
            "  device   --device auto: 1 GPU, driver unknown, no libcuda.so.1; no torch",
        ),
        ({"cache": Place(Path("/x"), False, 0)}, "  cache    /x, can't be written: set HEADWAY_CACHE to a place that can"),
        ({"num_cores": 64, "memory_bytes": 128 << 30}, "  cpu      AMD EPYC 9R14, 64 cores"),
        ({"memory_bytes": 128 << 30}, "  memory   128.0 GiB"),
        ({"is_root_read_only": False}, "  user     uid 1000, gid 0"),
    ],
)
def test_other_hosts(changes: dict[str, object], line: str) -> None:
    assert line in lines({}, HOST._replace(**changes))


@pytest.mark.parametrize(
    ("options", "gpus", "is_of_matter"),
    [
        ({"TENSOR_PARALLEL_SIZE": "2"}, Gpus(2), True),
        ({"DATA_PARALLEL_SIZE": "2"}, Gpus(2), False),
        ({"TENSOR_PARALLEL_SIZE": "2", "DEVICE": "cpu"}, Gpus(2), False),
        ({"TENSOR_PARALLEL_SIZE": "2"}, Gpus(0), False),
    ],
)
def test_when_shared_memory_is_of_matter(options: dict[str, str], gpus: Gpus, is_of_matter: bool) -> None:
    said = lines({f"SM_VLLM_{name}": value for name, value in options.items()}, HOST._replace(gpus=gpus))
    (line,) = (line for line in said if line.startswith("  shm "))
    assert ("docker run --shm-size 1g" in line) == is_of_matter
    assert ("of no matter" in line) != is_of_matter


def test_the_rung_of_the_model_ladder_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert banner(read_options([], {}, tmp_path), HOST)[1] == f"  model    {tmp_path}/m.gguf   (directory {tmp_path})"
    assert banner(read_options([], {"HF_MODEL_ID": "org/m"}, NOWHERE), HOST)[1] == "  model    org/m   (environment HF_MODEL_ID)"


def test_any_configuration_is_a_screenful_of_single_lines() -> None:
    many = {
        "SM_VLLM_CHAT_TEMPLATE": "{{ x }}\n{% if a %}\r\x1b[31m" + "y" * 5000,
        "SM_VLLM_SERVED_MODEL_NAME": "a,b",
        **{f"SM_VLLM_{name}": "7" for name in ("SEED", "MAX_NUM_SEQS", "MAX_MODEL_LEN", "BLOCK_SIZE", "SHUTDOWN_TIMEOUT", "MAX_LOGPROBS")},
        **{f"SM_VLLM_DISABLE_{name}": "1" for name in ("LOG_STATS", "UVICORN_ACCESS_LOG", "FASTAPI_DOCS")},
        "SM_VLLM_PORT": "8081",
        "SM_VLLM_DEVICE": "cpu",
        "SM_VLLM_DTYPE": "float32",
        "SM_VLLM_ROOT_PATH": "/x",
        "SM_VLLM_RESPONSE_ROLE": "r",
        "SM_VLLM_REVISION": "main",
    }
    said = lines(many)
    assert 14 < len(said) <= 25
    assert all(line.isprintable() for line in said)
    assert "{{ x }}\\n{% if a %}\\r\\x1b[31m" in "".join(said)
    assert max(map(len, said)) < 800
    text = "\n".join(said)
    assert all(f"{key} = " in text for key in ("seed", "revision", "response-role", "disable-log-stats", "host"))


def test_facts_of_a_pretended_host(tmp_path: Path) -> None:
    root = write(
        tmp_path / "root",
        **{
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: Other\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
            "sys/fs/cgroup/memory.current": "4096\n",
            "dev/shm/x": "",
        },
    )
    host = read_platform({"HEADWAY_CACHE": str(tmp_path / "cache")}, root, [add_torch(tmp_path, "2.13.0+cu130", "13.0")])
    assert (host.cpu_name, host.num_cores, host.memory_bytes) == ("Some CPU @ 2 GHz", 1, 1 << 30)
    assert host.torch == TorchBuild("2.13.0+cu130", (13, 0))
    assert host.cache.path == tmp_path / "cache"
    assert host.cache.is_writable
    assert host.cache.free_bytes > 0
    assert (host.shm_bytes or 0) > 0
    assert host.gpus == Gpus(0)


def test_a_host_with_nothing_to_read(tmp_path: Path) -> None:
    host = read_platform({}, tmp_path, [])
    assert host.cpu_name
    assert (host.torch, host.shm_bytes) == (None, None)
    assert host.memory_bytes == host.host_memory_bytes


def test_a_file_in_the_way_of_the_cache_can_t_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not place(tmp_path / "file" / "below").is_writable
    assert place(tmp_path / "new" / "below").is_writable


def test_a_cache_of_an_impossible_name_is_no_end_of_the_start(tmp_path: Path) -> None:
    assert place(tmp_path / ("x" * 300) / "below").free_bytes > 0
