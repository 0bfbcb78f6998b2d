"""A rotated residual stream: the same model before rounding, a better one after it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_model import demo_files
from forward_batches import Stepper
from gguf_files import convert_to_gguf
from gloo_ranks import run_ranks
from perplexity import divergence, english_tokens, log_probabilities, perplexity
from tiny_models import TINY_MODELS, make_tiny_model

from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading import loader
from headway.server.loading.loader import LoadedModel, Quantization, load_model
from headway.server.loading.rotation import HadamardRotation
from headway.server.source.files import ModelFiles

TOKEN_IDS = random.Random(0).choices(range(259), k=40)
# Public domain: Darwin, Melville, Austen, Conan Doyle, Jefferson, Wells, Lincoln.


def load(files: ModelFiles, quantization: Quantization, group: TensorParallelGroup = SINGLE) -> LoadedModel:
    return load_model(
        files, dtype="float32", device=torch.device("cpu"), quantization=quantization, load_format="auto", group=group, seed=0
    )


def logits(loaded: LoadedModel) -> torch.Tensor:
    return Stepper(loaded.model).run(TOKEN_IDS, [30, 1, 9])


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "int8" then is the rotation alone, with the products of fp32."""
    monkeypatch.setattr(loader, "Int8Linear", lambda device: UnquantizedLinear(torch.float32, device))


@pytest.mark.parametrize("size", [64, 576, 896, 1024, 72, 7])
def test_rotation_is_orthogonal_and_spreads(size: int) -> None:
    matrix = HadamardRotation(size)(torch.eye(size))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), atol=1e-5, rtol=0)
    assert torch.equal(matrix, HadamardRotation(size)(torch.eye(size))), "ranks must agree"
    if size >= 64:
        assert matrix.abs().max() < 0.3, "no channel passes as it is"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_every_float_dtype_is_rotated_in_fp32(dtype: torch.dtype) -> None:
    rotate, scale = HadamardRotation(72), torch.linspace(0.5, 2, 72)
    x = torch.randn(5, 72, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = rotate(x, scale)
    assert found.dtype == torch.float32
    assert found.equal(rotate(x.float(), scale))


def test_the_loaded_model_holds_no_file(tmp_path: Path) -> None:
    """Of fp32 norms, which adapters need later, no copy would be made by a conversion."""
    from safetensors.torch import load_file, save_file

    files = make_tiny_model("llama", tmp_path)
    path = files.path / "model.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    loaded = load(files, "int8")
    assert [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))] == []
    assert loaded.transform is not None


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_rotated_model_is_the_same_function(tmp_path: Path, unrounded: None, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    exact, rotated = load(files, "none"), load(files, "int8")
    torch.testing.assert_close(logits(rotated), logits(exact), atol=1e-4, rtol=0)
    assert rotated.config == exact.config


def test_rotated_gguf_is_the_same_function(tmp_path: Path, unrounded: None) -> None:
    files = convert_to_gguf(make_tiny_model("llama-tied", tmp_path), tmp_path / "tiny.gguf", "llama")
    torch.testing.assert_close(logits(load(files, "int8")), logits(load(files, "none")), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama-tied", "llama-biased", "qwen3"])
def test_ranks_rotate_alike(tmp_path: Path, unrounded: None, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    expected = logits(load(files, "none"))
    for found in run_ranks(2, lambda group: logits(load(files, "int8", group))):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_an_outlier_channel_no_longer_costs_the_others(tmp_path: Path) -> None:
    """What rotation is for: a norm that lifts one channel 100 times above the others."""
    from safetensors.torch import load_file, save_file

    files = make_tiny_model("llama", tmp_path)
    path = files.path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight"):
            tensor[5] *= 100
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            tensor[:, 5] /= 100
    save_file(tensors, path)
    exact, rounded = logits(load(files, "none")), logits(load(files, "int8"))
    assert (rounded - exact).norm() / exact.norm() < 0.06


def test_perplexity_of_the_demo_model() -> None:
    english = english_tokens()
    exact, rounded = (log_probabilities(load(demo_files(), name).model, english) for name in ("none", "int8"))
    # Perplexity moves by half a percent by chance; the divergence does not, and was 0.050 without rotation.
    before, after, kl = perplexity(exact, english), perplexity(rounded, english), divergence(rounded, exact)
    print(f"perplexity over {len(english)} tokens: fp32 {before:.3f}, int8 {after:.3f} ({after / before - 1:+.2%}); KL {kl:.4f}")
    assert abs(after / before - 1) < 0.015
    assert kl < 0.03  # 0.013 with AVX-512 VNNI; without it activations have 7 bits


def test_rotating_threads_have_no_threads_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of their many small products waits for threads that have no core."""
    seen: set[int] = set()
    rotate = HadamardRotation.__call__

    def watched(self: HadamardRotation, *arguments: Any) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return rotate(self, *arguments)

    monkeypatch.setattr(HadamardRotation, "__call__", watched)
    before = torch.get_num_threads()
    load(make_tiny_model("llama", tmp_path), "int8")
    assert seen == {1}
    assert torch.get_num_threads() == before
