"""Plain checkpoints whose weights are rounded as they are loaded: to what, how well, in how many bytes, and where that is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_ranks
from quantized_files import compressed_int8
from quantized_models import load, logits, make
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model

from headway.kernels.hadamard import block_of, spread_blocks
from headway.kernels.quant_matmul import int8_linear, keep_int8
from headway.server.config.plan import DeviceFacts, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ConfigError
from headway.server.layers.quant.rounding import round_weight
from headway.server.layers.quant.scheme import ROUNDED_SCHEMES, rounded_scheme
from headway.server.loading.loader import Quantization
from headway.server.loading.model_config import read_config
from headway.server.sizing.model import ModelShape, generating_facts
from headway.server.sizing.tensor_parallel import check_split, rank_share
from headway.server.sizing.weights import weight_bytes, weight_format
from headway.server.source.files import ModelFiles
from headway.server.words import GIB

CPU = DeviceFacts("cpu", "cpu", 24 * GIB, 20 * GIB, has_fast_bf16=False, has_fast_int8=True, multiplies_gguf=True)
GPU = DeviceFacts("cuda", "cuda:0", 140 * GIB, 130 * GIB, has_fast_bf16=True, has_fast_int8=False)
ASKED: dict[Quantization, tuple[str, DeviceFacts]] = {
    "int4": ("int4", CPU),
    "w4a16": ("int4", GPU),
    "w8a8": ("int8", GPU),
    "fp8": ("fp8", GPU),
}
_LINEARS = ("proj.weight", "c_attn.weight", "c_fc.weight", "w1.weight", "w2.weight", "w3.weight")

# Relative error of these random models' logits where activations are rounded to 8 bits, and where they are not.
_OF_ACTIVATIONS: dict[Quantization, float] = {"int4": 0.15, "w8a8": 0.08, "w4a16": 1e-5, "fp8": 1e-5}


def rounded_twin(plain: ModelFiles, directory: Path, quantization: Quantization) -> ModelFiles:
    """The same model with its linears, but for the head, in plain numbers that were rounded before."""
    assert plain.directory is not None
    shutil.copytree(plain.directory, directory)
    path = directory / "model.safetensors"

    def changed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.endswith(_LINEARS):
            return tensor.clone()
        columns_last = tensor.t() if ".c_" in name else tensor
        block = block_of(columns_last.shape[1], ROUNDED_SCHEMES[quantization].spread)
        exact = spread_blocks(round_weight(columns_last, ROUNDED_SCHEMES[quantization], block).dequantize(), block)
        return (exact.t() if ".c_" in name else exact).contiguous()

    save_file({name: changed(name, tensor) for name, tensor in load_file(path).items()}, path)
    return ModelFiles("safetensors", directory, None, plain.name)


@pytest.mark.parametrize(
    ("name", "quantization"),
    [("llama", "w8a8"), ("llama", "fp8"), *((name, kind) for name in ("gpt2", "mixtral") for kind in ("int4", "w4a16"))],
)
def test_it_computes_with_the_rounded_weights(tmp_path: Path, name: str, quantization: Quantization) -> None:
    plain = make_tiny_model(name, tmp_path / "plain")
    loaded, exact = load(plain, quantization), logits(load(plain))
    expected = logits(load(rounded_twin(plain, tmp_path / "twin", quantization)))
    error, effect = ((logits(loaded) - expected).norm() / exact.norm()).item(), ((expected - exact).norm() / exact.norm()).item()
    assert error < _OF_ACTIVATIONS[quantization]
    assert 0.01 < effect < 0.6, "they are not the plain ones"
    assert loaded.weight_format.startswith(ASKED[quantization][0])
    assert str(plain.path) not in Path("/proc/self/maps").read_text(), "what is kept holds no file"


@pytest.mark.parametrize("name", ["llama", "llama-tied", "mixtral"])
@pytest.mark.parametrize("quantization", ASKED)
def test_bytes_are_reckoned_exactly(tmp_path: Path, name: str, quantization: Quantization) -> None:
    files = make_tiny_model(name, tmp_path)
    shape, loaded = read_config(files), load(files, quantization)
    asked, device = ASKED[quantization]
    plan = plan_of(files, device, quantization=asked, dtype="auto" if device is CPU else "float32")
    assert plan.quantization == quantization
    facts = generating_facts(shape)
    assert weight_bytes(ModelShape("generate", shape, facts), plan, on_cpu=True) == loaded.weight_bytes
    assert weight_format(plan, shape) == loaded.weight_format


def plan_of(files: ModelFiles, device: DeviceFacts, **model: Any) -> Any:
    return make_plan(ServerConfig.model_validate({"model": {"model": "m", **model}}), generating_facts(read_config(files)), device)


def test_what_is_refused(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"--quantization fp8 is for GPUs, and this runs on a CPU: use int8 or int4"):
        plan_of(files, CPU, quantization="fp8")
    with pytest.raises(ConfigError, match=r"--quantization int4 computes in float32 .* not bfloat16"):
        plan_of(files, CPU, quantization="int4", dtype="bfloat16")
    bare = DeviceFacts("cpu", "cpu", 24 * GIB, 20 * GIB, has_fast_bf16=False, has_fast_int8=True)
    with pytest.raises(ConfigError, match=r"--quantization int4 needs the compiled kernels, .* use int8"):
        plan_of(files, bare, quantization="int4")


def test_what_is_quantised_already_can_be_rounded_further(tmp_path: Path) -> None:
    files, plain = make(tmp_path, compressed_int8())
    found, expected = logits(load(files, "w4a16")), logits(load(plain, "w4a16"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("quantization", ["int4", "w4a16", "w8a8"])
def test_ranks_share_them(tmp_path: Path, quantization: Quantization) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "vocab_size": 256, "head_dim": 64}
    files = make_tiny_model("llama", tmp_path, **sizes)
    shape, whole = read_config(files), logits(load(files, quantization))
    check_split(2, shape, quantization=quantization, num_devices=None)
    asked, device = ASKED[quantization]
    plan = plan_of(files, device, quantization=asked, dtype="float32")
    reckoned = weight_bytes(rank_share(ModelShape("generate", shape, generating_facts(shape)), 2), plan, on_cpu=True)

    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, int]:
        loaded = load(files, quantization, group)
        return logits(loaded), loaded.weight_bytes

    for found, num_bytes in run_ranks(2, work):
        # Rounded activations of half a row have another scale.
        assert (found - whole).norm() / whole.norm() < _OF_ACTIVATIONS[quantization]
        assert num_bytes == reckoned


def test_groups_are_not_torn(tmp_path: Path) -> None:
    shape = read_config(make_tiny_model("llama", tmp_path, intermediate_size=96))
    with pytest.raises(ConfigError, match=r"the groups of 64 channels of --quantization int4 can't be cut in 2; use [12], or --quant"):
        check_split(2, shape, quantization="w4a16", num_devices=None)
    check_split(2, shape, quantization="fp8", num_devices=None)


@pytest.mark.parametrize("quantization", ASKED)
def test_rounding_is_to_the_nearest(quantization: Quantization) -> None:
    """In pieces as in one, at sizes that no group divides, of groups of zeros and of numbers that 16 bits can't tell from 0."""
    scheme = ROUNDED_SCHEMES[quantization]
    weight = torch.randn(700, 1999, generator=torch.Generator().manual_seed(0))
    weight[3], weight[4] = 0, 1e-9
    values = round_weight(weight, scheme)
    exact = values.dequantize()
    assert exact.isfinite().all()
    assert (exact[3] == 0).all()
    assert (exact[4].abs() < 1e-6).all()
    one = round_weight(weight[650:651], scheme)
    torch.testing.assert_close(one.dequantize(), exact[650:651], atol=0, rtol=0)
    error = ((exact - weight).norm() / weight.norm()).item()
    assert error < {"int4": 0.085, "w4a16": 0.09, "w8a8": 0.01, "fp8": 0.03}[quantization]


def test_channels_that_dwarf_the_others_do_not_round_these_away() -> None:
    """Of a row with one scale for its activations, as a gated feed-forward layer has them."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(16, 256, generator=generator), torch.randn(64, 256, generator=generator) / 16
    x[:, 7] *= 100
    exact = x @ weight.T

    def error(block: int) -> float:
        values = round_weight(weight, ROUNDED_SCHEMES["w8a8"], block)
        small = x.clone()
        small[:, 7] = 0
        found = int8_linear(x, keep_int8(values.values, values.scale[:, 0], block))
        return float((found - exact).norm() / (small @ weight.T).norm())

    assert error(ROUNDED_SCHEMES["w8a8"].spread) < 0.5 * error(1)


def test_a_narrow_models_activations_stay_as_they_are_beside_fp8() -> None:
    narrow, wide = rounded_scheme("fp8", 576), rounded_scheme("fp8", 4096)
    assert narrow is not None
    assert wide is not None
    assert (narrow.name, wide.name) == ("fp8 (8-bit float weights)", "fp8 (8-bit float weights, 8-bit activations)")
    assert rounded_scheme("gguf", 4096) is None
