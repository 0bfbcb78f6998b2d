"""Quantised checkpoints compute what their numbers stand for, kept as they are or dequantised when they are loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from engine_driver import add_adapter, make_engine, request, run
from gloo_ranks import run_ranks
from quantized_files import (
    Form,
    awq,
    bitsandbytes,
    compressed_fp8,
    compressed_int8,
    compressed_packed,
    fp8,
    gptq,
)
from quantized_models import TOKEN_IDS, edit_quantization, edit_tensors, load, logits, make, refusal
from safetensors.torch import load_file, save_file
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model

from headway.kernels.fp8_matmul import quantize_fp8
from headway.server.config.plan import DeviceFacts, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ConfigError
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading import loader
from headway.server.loading.model_config import read_config
from headway.server.models.decoder import DecoderModel
from headway.server.sizing.model import ModelShape, generating_facts
from headway.server.sizing.tensor_parallel import check_split, rank_share
from headway.server.sizing.weights import weight_bytes, weight_format
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef
from headway.server.words import GIB

CPU = DeviceFacts("cpu", "cpu", 24 * GIB, 20 * GIB, has_fast_bf16=False, has_fast_int8=True)
GPU = DeviceFacts("cuda", "cuda:0", 140 * GIB, 130 * GIB, has_fast_bf16=True, has_fast_int8=False)
ALIGNED = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 64}  # no part ends inside a block of 128 rows

WEIGHT_ONLY: dict[str, Form] = {
    "packed": compressed_packed(),
    "packed-channel": compressed_packed(group_size=-1),
    "packed-asymmetric": compressed_packed(symmetric=False),
    "packed-order": compressed_packed(actorder=True),
    "fp8-weights": compressed_fp8("tensor", rounds_input=False),
    "awq": awq(),
    "gptq": gptq(),
    "gptq-asymmetric": gptq(sym=False),
    "gptq-v2": gptq(sym=False, v2=True),
    "gptq-order": gptq(desc_act=True),
    "gptq-orders-apart": gptq(sym=False, desc_act=True, apart=True),
    "gptq-rows": gptq(group_size=-1),
    "packed-8": compressed_packed(8),
    "int8-weights": compressed_int8(rounds_input=False),
    "gptq-8": gptq(8),
    "gptq-8-order": gptq(8, sym=False, desc_act=True),
}
DEQUANTISED: dict[str, Form] = {
    "bitsandbytes": bitsandbytes(),
    "bitsandbytes-fp4": bitsandbytes("fp4", nested=False),
    "bitsandbytes-uneven": bitsandbytes(block_size=80),  # ends inside a row; the last block is short
}
ROUNDING: dict[str, Form] = {
    "int8": compressed_int8(),
    "fp8-channel": compressed_fp8("channel"),
    "fp8-tensor-static": compressed_fp8("tensor", is_static=True),
    "compressed-blocks": compressed_fp8("block"),
    "fp8": fp8(is_blocked=False),
    "fp8-blocks": fp8(is_blocked=True),
}
ALL = WEIGHT_ONLY | DEQUANTISED | ROUNDING


@pytest.mark.parametrize("form", ALL.values(), ids=ALL)
def test_dequantised_when_loaded(tmp_path: Path, form: Form) -> None:
    files, plain = make(tmp_path, form, **(ALIGNED if "block" in str(form.config) else {}))
    loaded = load(files)
    torch.testing.assert_close(logits(loaded), logits(load(plain)), atol=1e-5, rtol=0)
    assert loaded.weight_format.startswith(f"fp32, dequantised from {form.config['quant_method']} (")


@pytest.mark.parametrize("form", WEIGHT_ONLY.values(), ids=WEIGHT_ONLY)
def test_weights_that_are_kept(tmp_path: Path, form: Form) -> None:
    files, plain = make(tmp_path, form)
    loaded = load(files, "kept")
    torch.testing.assert_close(logits(loaded), logits(load(plain)), atol=1e-4, rtol=0)
    # A third of the plain bytes is the embedding, and a scale a row pads its 64 columns to 128.
    assert loaded.weight_bytes < 0.65 * load(plain).weight_bytes
    mapped = Path("/proc/self/maps").read_text()
    assert str(files.path) not in mapped, "what is kept holds no file"


class RoundsInput(UnquantizedLinear):
    """What a product of rounded activations comes to, in plain numbers; the head of 259 rows is not quantised."""

    rounding = ""

    def apply(self, x: torch.Tensor, packed: Any, bias: torch.Tensor | None) -> torch.Tensor:
        return super().apply(x if packed.out_features == 259 else rounded(x, self.rounding), packed, bias)


def rounded(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "int8":
        scale = x.abs().amax(1, keepdim=True).clamp(min=1e-20) / 127
        return (x / scale).round() * scale
    size = 128 if kind == "blocks" else x.shape[1]
    values, scale = quantize_fp8(x, 0 if size == x.shape[1] else size)
    return values.float() * scale.repeat_interleave(size, 1)[:, : x.shape[1]]


@pytest.mark.parametrize(("name", "form"), ROUNDING.items(), ids=ROUNDING)
def test_activations_are_rounded_as_the_format_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: Form) -> None:
    kind = "int8" if name == "int8" else "blocks" if "blocks" in name else "rows"
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")  # 8 bits on every CPU
    files, plain = make(tmp_path, form, **ALIGNED)
    found, exact = logits(load(files, "kept")), logits(load(plain))
    monkeypatch.setattr(RoundsInput, "rounding", kind)
    monkeypatch.setattr(loader, "UnquantizedLinear", RoundsInput)
    expected = logits(load(plain))
    error, effect = (found - expected).norm() / expected.norm(), (expected - exact).norm() / exact.norm()
    # 0 in fp8, 0.27 in int8: a number at the edge of two steps may go either way. What is not rounded has an error of 1.
    assert error < 0.5 * effect


@pytest.mark.parametrize("name", ["int8", "fp8-tensor-static", "fp8-blocks"])
@torch.inference_mode()
def test_each_fused_product_is_that_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Scales of one part are not another's: to the last bits, for the same input."""
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")
    kind = "int8" if name == "int8" else "blocks" if "blocks" in name else "rows"
    files, plain = make(tmp_path, ROUNDING[name], **ALIGNED)
    kept, exact = load(files, "kept").model, load(plain).model
    assert isinstance(kept, DecoderModel)
    assert isinstance(exact, DecoderModel)
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0))
    for here, there in zip(kept.layers.values(), exact.layers.values(), strict=True):
        torch.testing.assert_close(here.qkv(x), there.qkv(rounded(x, kind)), atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(here.gate_up(x), there.gate_up(rounded(x, kind)), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "phi3", "mixtral", "llama-biased", "llama-tied"])
def test_other_families(tmp_path: Path, name: str) -> None:
    files, plain = make(tmp_path, gptq(), name)
    expected = logits(load(plain))
    for quantization in ("none", "kept"):
        torch.testing.assert_close(logits(load(files, quantization)), expected, atol=1e-4, rtol=0)


def test_blocks_that_reach_into_the_next_part_are_dequantised(tmp_path: Path) -> None:
    files, plain = make(tmp_path, fp8(is_blocked=True))
    model = load(files, "kept").model
    assert isinstance(model, DecoderModel)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    exact = load(plain).model
    assert isinstance(exact, DecoderModel)
    torch.testing.assert_close(model.layers[0].qkv(x), exact.layers[0].qkv(x))
    assert not torch.allclose(model.layers[0].o(x), exact.layers[0].o(x)), "one part alone is kept"


@pytest.mark.parametrize("form", ALL.values(), ids=ALL)
def test_bytes_are_reckoned_exactly(tmp_path: Path, form: Form) -> None:
    files, _ = make(tmp_path, form, **(ALIGNED if "block" in str(form.config) else {}))
    shape = read_config(files)
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m", "dtype": "float32"}}), generating_facts(shape), CPU)
    is_apart = form is ALL["gptq-orders-apart"]  # whose orders are kept for each part, as no tool writes them
    for quantization in ("none", *([] if is_apart else ["kept"])):
        loaded = load(files, quantization)
        own = replace(plan, quantization=quantization)
        assert weight_bytes(ModelShape("generate", shape, generating_facts(shape)), own, on_cpu=True) == loaded.weight_bytes
        assert weight_format(own, shape) == loaded.weight_format


@pytest.mark.parametrize("name", ["packed", "gptq-asymmetric", "awq", "fp8-weights", "int8", "gptq-8"])
def test_ranks_share_what_is_kept(tmp_path: Path, name: str) -> None:
    files, _ = make(tmp_path, ALL[name], intermediate_size=128)
    shape = read_config(files)
    check_split(2, shape, quantization="kept", num_devices=None)
    expected = logits(load(files, "kept"))
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m", "dtype": "float32"}}), generating_facts(shape), CPU)
    own = rank_share(ModelShape("generate", shape, generating_facts(shape)), 2)
    reckoned = weight_bytes(own, replace(plan, quantization="kept"), on_cpu=True)

    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, int]:
        loaded = load(files, "kept", group)
        return logits(loaded), loaded.weight_bytes

    for found, num_bytes in run_ranks(2, work):
        # Rounded activations of half a row have another scale.
        assert (found - expected).norm() / expected.norm() < (0.05 if name == "int8" else 1e-5)
        assert num_bytes == reckoned


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (gptq(group_size=32), "groups of this quantised checkpoint can't be cut in 4; use 2, or --quantization none"),
        (gptq(desc_act=True), "groups of this quantised checkpoint can't be cut in 4; use 1, or --quantization none"),
        (fp8(is_blocked=True), "groups of this quantised checkpoint can't be cut in 4; use 1, or --quantization none"),
    ],
)
def test_groups_are_not_torn(tmp_path: Path, form: Form, told: str) -> None:
    files, _ = make(tmp_path, form, intermediate_size=192)
    shape = replace(read_config(files), num_heads=4, num_kv_heads=4, head_dim=32)
    check_split(4, shape, quantization="none", num_devices=None)
    with pytest.raises(ConfigError, match=told):
        check_split(4, shape, quantization="kept", num_devices=None)


def plan_of(files: ModelFiles, device: DeviceFacts, **model: Any) -> tuple[str, str, str]:
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m", **model}}), generating_facts(read_config(files)), device)
    return plan.quantization, plan.dtype, plan.kv_cache_dtype


def test_what_is_detected_and_what_is_asked(tmp_path: Path) -> None:
    four, _ = make(tmp_path / "4", awq())
    eight, _ = make(tmp_path / "8", compressed_int8())
    assert plan_of(four, GPU)[0] == plan_of(four, GPU, quantization="awq")[0] == plan_of(four, GPU, quantization="awq_marlin")[0] == "kept"
    assert plan_of(four, GPU, quantization="none")[0] == "none"
    assert plan_of(four, CPU)[0] == "none"
    assert plan_of(eight, CPU)[:2] == ("kept", "float32")
    assert plan_of(eight, CPU, dtype="bfloat16")[:2] == ("none", "bfloat16")
    with pytest.raises(ConfigError, match=r"--quantization gptq is not what this model is: its config.json names the format awq"):
        plan_of(four, GPU, quantization="gptq")
    with pytest.raises(ConfigError, match=r"--quantization compressed-tensors computes in float32 .* not bfloat16"):
        plan_of(eight, CPU, quantization="compressed-tensors", dtype="bfloat16")
    plain = make_tiny_model("llama", tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"its config.json names no format; leave it out"):
        plan_of(plain, GPU, quantization="awq")
    mixture, _ = make(tmp_path / "mixture", awq(), "mixtral")
    assert plan_of(mixture, GPU)[0] == "kept"


def test_a_cache_scheme_makes_the_cache_fp8_on_a_gpu(tmp_path: Path) -> None:
    cache = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    files, _ = make(tmp_path, compressed_fp8(kv_cache_scheme=cache))
    tensors = load_file(files.path / "model.safetensors")
    scales = {f"model.layers.{i}.self_attn.{kind}_scale": torch.tensor([0.5]) for i in range(3) for kind in "kv"}
    save_file(tensors | scales, files.path / "model.safetensors")
    load(files, "kept")
    assert plan_of(files, GPU)[2] == "float8_e4m3fn"
    assert plan_of(files, CPU)[2] == "float32"


def test_modules_that_are_left_out(tmp_path: Path) -> None:
    """By name, by expression, and all parts of a fused one or none."""
    files, plain = make(tmp_path, compressed_packed())
    own = load_file(plain.path / "model.safetensors")
    kinds = ("weight_packed", "weight_scale", "weight_shape")
    left = [*(f"model.layers.{i}.mlp.down_proj" for i in range(3)), "model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj"]
    edit_tensors(
        files, **{f"{name}.{kind}": None for name in left for kind in kinds}, **{f"{name}.weight": own[f"{name}.weight"] for name in left}
    )
    edit_quantization(files, ignore=["lm_head", "re:.*down_proj", *left[3:]])
    torch.testing.assert_close(logits(load(files, "kept")), logits(load(plain)), atol=1e-4, rtol=0)
    edit_quantization(files, ignore=["lm_head", "re:.*down_proj", left[3]])
    assert "leaves out some of the parts of layers.2.gate_up.weight" in refusal(files)


def test_8_bits_of_our_own_are_made_of_any(tmp_path: Path) -> None:
    files, plain = make(tmp_path, gptq(desc_act=True))
    found, expected = load(files, "int8"), load(plain, "int8")
    assert torch.equal(logits(found), logits(expected))
    assert found.weight_bytes == expected.weight_bytes


@pytest.mark.parametrize(("form", "name"), [(gptq(), "quantize_config.json"), (awq(), "quant_config.json")])
def test_a_config_in_a_file_of_its_own(tmp_path: Path, form: Form, name: str) -> None:
    files, plain = make(tmp_path, form)
    path = files.path / "config.json"
    values = json.loads(path.read_text())
    own = values.pop("quantization_config")
    del own["quant_method"]
    path.write_text(json.dumps(values))
    (files.path / name).write_text(json.dumps(own))
    torch.testing.assert_close(logits(load(files, "kept")), logits(load(plain)), atol=1e-4, rtol=0)


def test_an_engine_serves_8_bits_on_a_cpu(tmp_path: Path) -> None:
    files, _ = make(tmp_path, compressed_int8())
    engine = make_engine(files, model={"dtype": "auto", "max_model_len": 64}, lora={"enable_lora": True})
    assert engine.info.weight_format == "compressed-tensors (8-bit weights, 8-bit activations)"
    add_adapter(engine, AdapterRef(1, "a", str(make_adapter(tmp_path / "a", read_config(files)))))
    answers = run(engine, [request("plain", TOKEN_IDS[:9]), msgspec.structs.replace(request("adapted", TOKEN_IDS[:9]), adapter_id=1)])
    assert all(len(answer.token_ids) == 16 for answer in answers.values())


def test_all_that_is_kept_is_found_for_a_sleep(tmp_path: Path) -> None:
    files, _ = make(tmp_path, gptq(desc_act=True))
    loaded = load(files, "kept")
    assert isinstance(loaded.model, DecoderModel)
    assert loaded.weight_format == "gptq (4-bit weights)"
    found = {id(tensor) for tensor in loaded.model.tensors()}
    (packed,) = loaded.model.layers[0].qkv.packed.parts
    assert {id(packed.weight), id(packed.scale), id(packed.offset), id(packed.order)} <= found


_IN_ORDER = ("packed", "packed-channel", "packed-asymmetric", "awq", "gptq", "gptq-v2", "gptq-rows")
ON_A_CPU = {name: WEIGHT_ONLY[name] for name in (*_IN_ORDER, "packed-order", "gptq-order")}


@pytest.mark.parametrize("form", ON_A_CPU.values(), ids=ON_A_CPU)
def test_a_cpu_keeps_4_bits_in_its_own_groups(tmp_path: Path, form: Form) -> None:
    """The weights are the same; activations are rounded to 8 bits."""
    files, plain = make(tmp_path, form)
    loaded, exact = load(files, "w4a8"), logits(load(plain))
    assert ((logits(loaded) - exact).norm() / exact.norm()).item() < 0.06
    shape, device = read_config(files), replace(CPU, multiplies_gguf=True)
    facts = generating_facts(shape)
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m"}}), facts, device)
    assert (plan.quantization, plan.dtype, plan.kv_cache_dtype) == ("w4a8", "float32", "bfloat16")
    assert weight_bytes(ModelShape("generate", shape, facts), plan, on_cpu=True) == loaded.weight_bytes
    assert weight_format(plan, shape) == loaded.weight_format


def test_a_cpu_keeps_parts_whose_orders_differ(tmp_path: Path) -> None:
    files, plain = make(tmp_path, ALL["gptq-orders-apart"])
    found, exact = logits(load(files, "w4a8")), logits(load(plain))
    assert ((found - exact).norm() / exact.norm()).item() < 0.06


def test_columns_in_an_order_are_not_cut(tmp_path: Path) -> None:
    files, _ = make(tmp_path, gptq(desc_act=True))
    with pytest.raises(ConfigError, match=r"the groups of 32 channels of this quantised checkpoint can't be cut in 2; use 1, or"):
        check_split(2, read_config(files), quantization="w4a8", num_devices=None)


def test_a_cpu_dequantises_4_bits_that_it_has_no_product_for(tmp_path: Path) -> None:
    eight, _ = make(tmp_path / "8", gptq(8))
    four, _ = make(tmp_path / "4", gptq())
    device = replace(CPU, multiplies_gguf=True)
    assert plan_of(eight, device)[0] == plan_of(four, device, dtype="bfloat16")[0] == plan_of(four, CPU)[0] == "none"
    assert plan_of(four, device, quantization="gptq")[0] == "w4a8"
