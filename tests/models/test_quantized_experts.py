"""Experts of few bits kept together, as a GPU has them, answer what the same numbers give one by one; by Triton's kernel where it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from forward_batches import Stepper
from gloo_ranks import run_ranks
from mxfp4_files import make_gpt_oss
from quantized_files import Form, awq, compressed_fp8, compressed_int8, compressed_packed, fp8, gptq
from quantized_models import edit_quantization, edit_tensors, load, make
from safetensors.torch import load_file
from tiny_models import make_tiny_model

from headway.kernels import moe
from headway.kernels.backend import is_interpreting
from headway.kernels.reference import moe as reference
from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import DeviceFacts, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ConfigError, ModelSourceError
from headway.server.layers.balanced_experts import BalancedExperts
from headway.server.layers.experts import StackedExperts
from headway.server.layers.quant.kept import KeptLinear
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.loader import LoadedModel, Quantization
from headway.server.loading.model_config import read_config
from headway.server.sizing.expert_balancing import check_balancing
from headway.server.sizing.model import ModelShape, generating_facts
from headway.server.sizing.tensor_parallel import check_split, rank_share
from headway.server.sizing.weights import weight_bytes, weight_format
from headway.server.source.files import ModelFiles
from headway.server.words import GIB

GPU = DeviceFacts("cuda", "cuda:0", 140 * GIB, 130 * GIB, has_fast_bf16=True, has_fast_int8=False)
BLOCKS = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 64}  # no part ends inside a block of 128 rows
SMALL = {"num_hidden_layers": 1, "num_local_experts": 3}
EXACT: dict[str, Form] = {
    "packed": compressed_packed(),
    "packed-order": compressed_packed(actorder=True),
    "awq": awq(),
    "gptq-rows": gptq(group_size=-1),
    "gptq-8": gptq(8),
    "fp8-weights": compressed_fp8("tensor", rounds_input=False),
}
ROUNDING: dict[str, Form] = {
    "int8": compressed_int8(),
    "fp8-channel": compressed_fp8("channel"),
    "fp8": fp8(is_blocked=False),
    "fp8-blocks": fp8(is_blocked=True),
}
AS_LOADED: dict[Quantization, str] = {"w8a8": "int8", "w4a16": "int4", "fp8": "fp8"}


def logits(loaded: LoadedModel) -> torch.Tensor:
    """Of a prefill and a step of one row."""
    return Stepper(loaded.model).run([7, 3, 250, 4, 4, 19], [5, 1])


def gpu_kernel() -> ModuleType:
    """Triton's where it is interpreted, else what judges it."""
    if not is_interpreting():
        return reference
    from headway.kernels.gpu import moe as interpreted

    return interpreted


@pytest.fixture
def _stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts as a GPU keeps and multiplies them."""
    for method in (KeptLinear, UnquantizedLinear):
        monkeypatch.setattr(method, "stacks_experts", property(lambda _: True))
    kernel = gpu_kernel()
    monkeypatch.setattr(moe, "implementation", lambda *_: kernel)


def load_apart(files: ModelFiles, quantization: Quantization) -> LoadedModel:
    """One product an expert, by what judges the kernels: in 8 bits on every CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_KERNELS", "reference")
        for method in (KeptLinear, UnquantizedLinear):
            patch.setattr(method, "stacks_experts", property(lambda _: False))
        return load(files, quantization)


def logits_apart(files: ModelFiles, quantization: Quantization) -> torch.Tensor:
    loaded = load_apart(files, quantization)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_KERNELS", "reference")
        return logits(loaded)


def assert_kept_as_planned(files: ModelFiles, loaded: LoadedModel, **model: Any) -> None:
    """The plan of a GPU keeps them, in as many bytes as are reckoned, and nothing plain is among the experts."""
    shape = read_config(files)
    facts = generating_facts(shape)
    plan = make_plan(ServerConfig.model_validate({"model": {"model": "m", **model}}), facts, GPU)
    assert plan.quantization in ("kept", *AS_LOADED)
    plan = replace(plan, dtype="float32")
    assert weight_bytes(ModelShape("generate", shape, facts), plan, on_cpu=True) == loaded.weight_bytes
    assert weight_format(plan, shape) == loaded.weight_format
    stores = [layer for _, layer in loaded.model.named_layers() if isinstance(layer, StackedExperts)]
    assert stores
    held = {id(tensor) for tensor in loaded.model.tensors()}
    for stack in (stack for store in stores for stack in (store.gate_up, store.down)):
        assert not isinstance(stack.weight, torch.Tensor)
        assert {id(tensor) for tensor in stack.weight.tensors()} <= held, "a sleep takes them off the device"


@pytest.mark.usefixtures("_stacked")
@pytest.mark.parametrize("form", EXACT.values(), ids=EXACT)
def test_checkpoints_of_few_bits(tmp_path: Path, form: Form) -> None:
    files, plain = make(tmp_path, form, "mixtral", **SMALL)
    loaded = load(files, "kept")
    torch.testing.assert_close(logits(loaded), logits_apart(plain, "none"), atol=2e-4, rtol=0)
    assert_kept_as_planned(files, loaded)


@pytest.mark.usefixtures("_stacked")
@pytest.mark.parametrize(("name", "form"), ROUNDING.items(), ids=ROUNDING)
def test_checkpoints_whose_activations_are_rounded(tmp_path: Path, name: str, form: Form) -> None:
    files, _ = make(tmp_path, form, "mixtral", **SMALL, **(BLOCKS if "blocks" in name else {}))
    loaded = load(files, "kept")
    expected = logits_apart(files, "kept")
    # A number at the edge of two steps may go either way.
    assert (logits(loaded) - expected).norm() < 0.05 * expected.norm()
    assert_kept_as_planned(files, loaded)


@pytest.mark.usefixtures("_stacked")
def test_gpt_oss_in_mxfp4(tmp_path: Path) -> None:
    files, plain = make_gpt_oss(tmp_path)
    loaded = load(files, "kept")
    found, expected = logits(loaded), logits_apart(plain, "none")
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert loaded.weight_format == "mxfp4 (4-bit float weights)"
    assert_kept_as_planned(files, loaded)
    assert_kept_as_planned(files, loaded, quantization="mxfp4")


@pytest.mark.usefixtures("_stacked")
@pytest.mark.parametrize("quantization", AS_LOADED)
def test_what_is_rounded_as_it_is_loaded(tmp_path: Path, quantization: Quantization) -> None:
    files = make_tiny_model("mixtral", tmp_path, **SMALL)
    loaded, expected = load(files, quantization), logits_apart(files, quantization)
    assert (logits(loaded) - expected).norm() < 0.05 * expected.norm()
    assert_kept_as_planned(files, loaded, quantization=AS_LOADED[quantization])


RANKS: dict[str, tuple[Form | None, int, dict[str, int]]] = {
    "mxfp4": (None, 2, {}),  # 3 blocks over 2 ranks
    "packed": (compressed_packed(), 2, {"intermediate_size": 96}),
    "fp8-blocks": (fp8(is_blocked=True), 2, {"hidden_size": 256, "intermediate_size": 384, "head_dim": 128, "num_key_value_heads": 4}),
}


@pytest.mark.parametrize("has_whole_experts", [False, True], ids=["cut", "whole"])
@pytest.mark.parametrize(("form", "size", "changes"), RANKS.values(), ids=RANKS)
def test_ranks_share_them(
    tmp_path: Path, form: Form | None, size: int, changes: dict[str, int], has_whole_experts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between groups, with one more on some ranks than on others where they don't divide them; and bytes are those of the one with most."""
    monkeypatch.setattr(KeptLinear, "stacks_experts", property(lambda _: True))
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")
    files, _ = make_gpt_oss(tmp_path) if form is None else make(tmp_path, form, "mixtral", **SMALL | changes)
    expected = logits(load(files, "kept"))
    shape = read_config(files)
    check_split(size, shape, quantization="kept", num_devices=None, has_whole_experts=has_whole_experts)
    facts = generating_facts(shape)
    own = rank_share(ModelShape("generate", shape, facts), size, has_whole_experts=has_whole_experts, quantization="kept")
    plan = replace(make_plan(ServerConfig.model_validate({"model": {"model": "m"}}), facts, GPU), dtype="float32")

    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, int]:
        loaded = load(files, "kept", group, has_whole_experts=has_whole_experts)
        return logits(loaded), loaded.weight_bytes

    found = run_ranks(size, work)
    for found_here, _ in found:
        # Rounded activations of a part of a row have another scale where it is no block.
        torch.testing.assert_close(found_here, expected, atol=2e-4, rtol=0)
    assert max(num_bytes for _, num_bytes in found) == weight_bytes(own, plan, on_cpu=True)


def test_groups_that_ranks_can_not_share(tmp_path: Path) -> None:
    files, _ = make_gpt_oss(tmp_path)
    shape = replace(read_config(files), num_kv_heads=4)
    with pytest.raises(ConfigError, match="can't be cut in 4; use 2, --enable-expert-parallel or --quantization none"):
        check_split(4, shape, quantization="kept", num_devices=None)
    check_split(4, shape, quantization="kept", num_devices=None, has_whole_experts=True)


def test_experts_in_part_of_few_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptLinear, "stacks_experts", property(lambda _: True))
    files, plain = make(tmp_path, awq(), "mixtral", **SMALL)
    left = [f"model.layers.0.block_sparse_moe.experts.1.{name}" for name in ("w1", "w2", "w3")]
    whole = load_file(plain.path / "model.safetensors")
    kinds = ("qweight", "qzeros", "scales")
    edit_tensors(
        files, **{f"{name}.{kind}": None for name in left for kind in kinds}, **{f"{name}.weight": whole[f"{name}.weight"] for name in left}
    )
    edit_quantization(files, modules_to_not_convert=left)
    with pytest.raises(ModelSourceError, match=r"some experts of a layer quantised and others not, .* add --quantization none"):
        load(files, "kept")
    torch.testing.assert_close(logits(load(files)), logits(load(plain)), atol=1e-4, rtol=0)


def test_act_order_that_differs_between_gate_and_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptLinear, "stacks_experts", property(lambda _: True))
    files, _ = make(tmp_path, gptq(desc_act=True, apart=True), "mixtral", **SMALL)
    with pytest.raises(ModelSourceError, match=r"orders of their own \(act-order\), .* add --quantization none"):
        load(files, "kept")


@pytest.mark.parametrize("quantization", ["w4a16", "fp8"])
def test_experts_of_few_bits_move(tmp_path: Path, quantization: Quantization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")
    files = make_tiny_model("mixtral", tmp_path, **SMALL, head_dim=32)
    expected = logits(load(files, quantization))
    check_balancing(
        ParallelConfig(tensor_parallel_size=2, enable_expert_parallel=True, enable_eplb=True, eplb_config={"num_redundant_experts": 1}),
        read_config(files),
        quantization,
    )

    def work(group: TensorParallelGroup) -> torch.Tensor:
        loaded = load(files, quantization, group, has_whole_experts=True, num_redundant_experts=1)
        (layer,) = [layer for _, layer in loaded.model.named_layers() if isinstance(layer, BalancedExperts)]
        assert layer.move_to([[2, 1], [0, 2]])
        return logits(loaded)

    for found in run_ranks(2, work):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("_stacked")
def test_deepseek_in_blocks_of_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense layers, shared experts and routed ones; what is applied in two pieces is dequantised."""
    monkeypatch.setattr(moe, "implementation", lambda *_: reference)
    changes = {"hidden_size": 128, "moe_intermediate_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    files, _ = make(tmp_path, fp8(is_blocked=True), "deepseek-v3", **changes)
    loaded = load(files, "kept")
    expected = logits_apart(files, "kept")
    assert (logits(loaded) - expected).norm() < 0.05 * expected.norm()
    assert_kept_as_planned(files, loaded)
