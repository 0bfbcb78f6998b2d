"""A quantised GGUF as a GPU keeps it answers what its dequantised weights do: by Triton's products where they are interpreted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import convert_to_gguf
from gloo_ranks import run_ranks
from quantized_models import load, logits
from tiny_models import make_tiny_model

from headway.kernels import int4_matmul, moe
from headway.kernels.backend import is_interpreting
from headway.kernels.int4_layout import PackedInt4
from headway.kernels.linear import PackedLinear
from headway.server.config.plan import DeviceFacts, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ConfigError
from headway.server.layers.quant.kept import KeptLinear, KeptParts
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.loader import LoadedModel
from headway.server.loading.model_config import read_config
from headway.server.models.base import DecoderConfig
from headway.server.sizing.model import ModelShape, generating_facts
from headway.server.sizing.tensor_parallel import check_split, rank_share
from headway.server.sizing.weights import weight_bytes, weight_format
from headway.server.source.files import ModelFiles
from headway.server.words import GIB

GPU = DeviceFacts("cuda", "cuda:0", 140 * GIB, 130 * GIB, has_fast_bf16=True, has_fast_int8=False)
# As the usual tools write a file in Q4_K_M: what matters more has more bits.
Q4_K_M = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q6_K", "attn_output.weight": "Q4_K", "output.weight": "Q6_K"}
K_SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts are in stacks, and products Triton's."""
    for method in (KeptLinear, UnquantizedLinear):
        monkeypatch.setattr(method, "stacks_experts", property(lambda _: True))
    if is_interpreting():
        from headway.kernels.gpu import int4_matmul as interpreted
        from headway.kernels.gpu import moe as interpreted_moe

        monkeypatch.setattr(int4_matmul, "implementation", lambda *_: interpreted)
        monkeypatch.setattr(moe, "implementation", lambda *_: interpreted_moe)


def make(
    tmp_path: Path, name: str, type_name: str, other_types: dict[str, str] | None = None, architecture: str = "llama", **changes: Any
) -> ModelFiles:
    original = make_tiny_model(name, tmp_path / "hf", **{"intermediate_size": 128} | changes)
    return convert_to_gguf(original, tmp_path / "tiny.gguf", architecture, type_name=type_name, other_types=other_types)


def assert_kept_as_planned(files: ModelFiles, loaded: LoadedModel) -> None:
    shape = read_config(files)
    facts = generating_facts(shape)
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m", "dtype": "float32"}}), facts, GPU)
    assert plan.quantization == "gguf_a16"
    assert weight_bytes(ModelShape("generate", shape, facts), plan, on_cpu=True) == loaded.weight_bytes
    assert weight_format(plan, shape) == loaded.weight_format == "GGUF blocks (4- or 8-bit weights)"


def bits_of(loaded: LoadedModel) -> dict[str, int]:
    """By the layers' last names; 32 of a plain one."""
    found = {}
    for name, layer in loaded.model.named_layers():
        packed = getattr(layer, "packed", None)
        if isinstance(packed, KeptParts):
            (part,) = packed.parts
            assert isinstance(part, PackedInt4)
            found[name.rpartition(".")[2]] = part.bits
        elif isinstance(packed, PackedLinear):
            found[name.rpartition(".")[2]] = 32
    return found


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize(
    ("name", "type_name", "bits"), [("llama", "Q4_0", 4), ("llama", "Q5_1", 8), ("llama-tied", "Q4_1", 4), ("llama-biased", "Q8_0", 8)]
)
def test_blocks_of_32(tmp_path: Path, name: str, type_name: str, bits: int) -> None:
    files = make(tmp_path, name, type_name, num_hidden_layers=1)
    loaded, expected = load(files, "gguf_a16"), logits(load(files))
    assert (logits(loaded) - expected).norm() < 1e-5 * expected.norm()
    assert set(bits_of(loaded).values()) == {bits}
    assert_kept_as_planned(files, loaded)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_blocks_of_256(tmp_path: Path) -> None:
    """The widest part of a fused weight decides. Scales of Q4_K are rounded to fp16, and weights of Q6_K, whose groups are of 16, to 8
    bits."""
    files = make(tmp_path, "llama", "Q4_K", Q4_K_M, **K_SIZES)
    loaded, expected = load(files, "gguf_a16"), logits(load(files))
    assert (logits(loaded) - expected).norm() < 0.02 * expected.norm()
    assert bits_of(loaded) == {"qkv": 8, "o": 4, "gate_up": 4, "down": 8}
    assert_kept_as_planned(files, loaded)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize(("type_name", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
def test_experts(tmp_path: Path, type_name: str, bits: int) -> None:
    files = make(tmp_path, "qwen3-moe", type_name, architecture="qwen3moe", num_hidden_layers=1)
    loaded, expected = load(files, "gguf_a16"), logits(load(files))
    assert (logits(loaded) - expected).norm() < 1e-5 * expected.norm()
    assert_kept_as_planned(files, loaded)
    num_plain = sum(tensor.numel() for tensor in loaded.model.tensors() if tensor.dtype == torch.float32)
    num_packed = sum(tensor.numel() for tensor in loaded.model.tensors() if tensor.dtype == torch.uint8)
    assert num_packed * 8 / bits > num_plain, "a sleep takes them off the device"


@pytest.mark.parametrize(("name", "architecture"), [("llama", "llama"), ("qwen3-moe", "qwen3moe")])
def test_ranks_share_them(tmp_path: Path, name: str, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptLinear, "stacks_experts", property(lambda _: True))
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")
    changes = {"vocab_size": 260, "head_dim": 32, **({"moe_intermediate_size": 96} if name == "qwen3-moe" else {})}
    files = make(tmp_path, name, "Q8_0", architecture=architecture, num_hidden_layers=1, **changes)
    expected, shape = logits(load(files, "gguf_a16")), read_config(files)
    assert isinstance(shape, DecoderConfig)
    check_split(2, shape, quantization="gguf_a16", num_devices=None)
    facts = generating_facts(shape)
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m", "dtype": "float32"}}), facts, GPU)
    own = rank_share(ModelShape("generate", shape, facts), 2, quantization="gguf_a16")

    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, int]:
        loaded = load(files, "gguf_a16", group)
        return logits(loaded), loaded.weight_bytes

    found = run_ranks(2, work)
    for found_here, _ in found:
        torch.testing.assert_close(found_here, expected, atol=2e-4, rtol=0)
    assert max(num_bytes for _, num_bytes in found) == weight_bytes(own, plan, on_cpu=True)
    with pytest.raises(ConfigError, match="the blocks of this GGUF can't be cut in 2; use 1, or --quantization none"):
        check_split(2, replace(shape, head_dim=8, num_heads=2, mixture=None), quantization="gguf_a16", num_devices=None)
    with pytest.raises(ConfigError, match="the blocks of this GGUF can't be cut in 2"):
        check_split(2, replace(shape, vocab_size=259, mixture=None), quantization="gguf_a16", num_devices=None)
