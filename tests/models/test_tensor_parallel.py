"""A model over several ranks computes what it computes on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from quantized_models import load
from tiny_models import make_tiny_model

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.loader import LoadedModel
from headway.server.source.files import ModelFiles

TOKEN_IDS = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31]


def logits_of(loaded: LoadedModel) -> torch.Tensor:
    """A prefill, a chunk beside a decode, and a decode."""
    stepper = Stepper(loaded.model, seed=1)
    first, second = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1])
    plans = [[(first, 4)], [(first, 1), (second, 6)], [(second, 1), (first, 1)]]
    return torch.cat([part for plan in plans for part in stepper.step(plan)])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *[("llama", 2), ("llama-biased", 2), ("llama-three", 3), ("llama-tied", 4), ("mistral", 2), ("qwen2", 2), ("qwen3", 2)],
        *[("qwen3", 4), ("gemma2", 2), ("gemma3", 2), ("phi3", 2), ("phi4-mini", 2), ("granite", 2), ("olmo2", 2), ("olmo2", 4)],
        *[("cohere", 2), ("cohere-plus", 4), ("cohere2", 2), ("gpt2", 2), ("opt", 2), ("starcoder2", 2), ("smollm3", 2)],
    ],
)
def test_ranks_agree_with_one_device(tmp_path: Path, name: str, size: int) -> None:
    _assert_ranks_agree(make_tiny_model(name, tmp_path), size)


@pytest.mark.parametrize("has_whole_experts", [False, True], ids=["cut", "whole"])
@pytest.mark.parametrize(
    ("name", "size"), [("mixtral", 2), ("qwen2-moe", 2), ("qwen3-moe", 4), ("gpt-oss", 4), ("deepseek-v2", 2), ("deepseek-v3", 4)]
)
def test_ranks_of_a_mixture_agree_with_one_device(tmp_path: Path, name: str, size: int, has_whole_experts: bool) -> None:
    """The ranks do not divide the experts of most: some hold one more than others."""
    _assert_ranks_agree(make_tiny_model(name, tmp_path), size, has_whole_experts=has_whole_experts)


def test_experts_in_one_tensor_on_the_ranks_that_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnquantizedLinear, "stacks_experts", property(lambda _: True))
    for name in ("mixtral", "gpt-oss"):
        files = make_tiny_model(name, tmp_path / name)
        for has_whole_experts in (False, True):
            _assert_ranks_agree(files, 2, has_whole_experts=has_whole_experts)


def _assert_ranks_agree(files: ModelFiles, size: int, *, has_whole_experts: bool = False) -> None:
    whole = load(files)
    expected = logits_of(whole)

    def work(group: TensorParallelGroup) -> tuple[LoadedModel, torch.Tensor]:
        loaded = load(files, group=group, has_whole_experts=has_whole_experts)
        return loaded, logits_of(loaded)

    for loaded, found in run_ranks(size, work):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert loaded.model.kv_spec.num_kv_heads == max(whole.model.kv_spec.num_kv_heads // size, 1)
        assert loaded.weight_bytes < whole.weight_bytes


def test_int8_and_dummy_weights_are_split_alike(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    expected = logits_of(load(files, load_format="dummy"))
    for found in run_ranks(2, lambda group: logits_of(load(files, group=group, load_format="dummy"))):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    mixture = make_tiny_model("mixtral", tmp_path / "mixture")
    expected = logits_of(load(mixture, load_format="dummy"))
    for found in run_ranks(2, lambda group: logits_of(load(mixture, group=group, load_format="dummy", has_whole_experts=True))):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    exact = logits_of(load(files))
    for found in run_ranks(2, lambda group: logits_of(load(files, group=group, quantization="int8"))):
        assert (found - exact).norm() / exact.norm() < 0.1


@pytest.mark.parametrize(("size", "word"), [(3, "attention heads is 4"), (8, "attention heads is 4")])
def test_ranks_that_do_not_divide_the_model(tmp_path: Path, size: int, word: str) -> None:
    files = make_tiny_model("llama", tmp_path)
    with pytest.raises(ModelSourceError, match=word):
        run_ranks(size, lambda group: load(files, group=group))


def test_key_value_heads_neither_multiple_nor_divisor(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path, num_attention_heads=12, num_key_value_heads=6, hidden_size=96)
    with pytest.raises(ModelSourceError, match="key-value heads is 6"):
        run_ranks(4, lambda group: load(files, group=group))


def test_collectives() -> None:
    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, torch.Tensor]:
        own = torch.full((2, 1), float(group.rank))
        return group.all_gather(own, dim=1), group.all_reduce(own + 1)

    for gathered, total in run_ranks(3, work):
        assert gathered.tolist() == [[0.0, 1.0, 2.0]] * 2
        assert total.tolist() == [[6.0]] * 2
    with pytest.raises(ValueError, match="needs a process group"):
        TensorParallelGroup(0, 2)
