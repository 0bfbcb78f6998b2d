"""Models over keys and values in int8: nearly the same function, and the same one however the work is cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from demo_model import demo_files
from engine_driver import Output, make_engine, request, run
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from perplexity import english_tokens, log_probabilities, perplexity
from tiny_models import make_tiny_model
from torch import Tensor

from headway.kernels.kv_cache import INT8
from headway.kernels.reference.rope import round_int8
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.engine.core import EngineCore
from headway.server.layers import attention
from headway.server.loading.loader import load_model
from headway.server.models.base import Model
from headway.server.source.files import ModelFiles

TOKEN_IDS = random.Random(0).choices(range(259), k=40)


def load(files: ModelFiles, group: TensorParallelGroup = SINGLE) -> Model:
    device = torch.device("cpu")
    return load_model(files, dtype="float32", device=device, quantization="none", load_format="auto", group=group, seed=0).model


def engine(files: ModelFiles, num_blocks: int = 64, **scheduler: int) -> EngineCore:
    cache = {"kv_cache_dtype": "int8", "num_gpu_blocks_override": num_blocks, "block_size": 4}
    return make_engine(files, model={"max_model_len": 64}, cache=cache, scheduler=scheduler)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt-oss", "gemma2"])
def test_logits_are_near_and_do_not_depend_on_the_chunks(tmp_path: Path, name: str) -> None:
    """Norms of heads, windows, sinks and soft caps among them."""
    model = load(make_tiny_model(name, tmp_path))
    exact = Stepper(model).run(TOKEN_IDS, [40])
    rounded = Stepper(model, dtype=INT8).run(TOKEN_IDS, [40])
    assert 0 < (rounded - exact).std() < 0.03 * exact.std()  # half a step is 0.4% of a head's largest number
    # A key that lies between two numbers may be rounded to the other one; few do. Where bf16 is multiplied, queries of a chunk are rounded.
    assert (Stepper(model, dtype=INT8).run(TOKEN_IDS, [30, 1, 9]) - rounded).abs().mean() < 0.004


def test_logits_are_those_of_keys_and_values_that_were_rounded_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of each token by its own scale: as if what is written to pages in fp32 had been rounded and brought back."""
    model = load(make_tiny_model("llama", tmp_path))
    found = Stepper(model, dtype=INT8).run(TOKEN_IDS, [1] * 40)
    write = attention.rope_and_cache

    def rounding(q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, positions: Tensor, *pages: Tensor, **options: object) -> Tensor:
        out = write(q, k, v, cos_sin, positions, *pages, **options)  # type: ignore[arg-type]
        slots = pages[2]
        for cache in pages[:2]:
            block, slot = slots // cache.shape[1], slots % cache.shape[1]
            numbers, scales = round_int8(cache[block, slot])
            cache[block, slot] = numbers * scales[..., None]
        return out

    monkeypatch.setattr(attention, "rope_and_cache", rounding)
    torch.testing.assert_close(found, Stepper(model).run(TOKEN_IDS, [1] * 40), atol=1e-4, rtol=0)


def test_two_ranks_agree_with_one_device(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)

    def logits(group: TensorParallelGroup) -> Tensor:
        stepper = Stepper(load(files, group), dtype=INT8)
        first, second = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1])
        plans = [[(first, 9)], [(first, 1), (second, 20)], [(second, 1), (first, 1)]]
        return torch.cat([part for plan in plans for part in stepper.step(plan)])

    expected = logits(SINGLE)
    for found in run_ranks(2, logits):
        assert (found - expected).abs().mean() < 0.004


def test_perplexity_of_the_demo_model() -> None:
    """Beside pages in fp8, which lose more."""
    model, tokens = load(demo_files()), english_tokens()[:800]
    exact, rounded = (perplexity(log_probabilities(model, tokens, dtype=dtype), tokens) for dtype in (torch.float32, INT8))
    print(f"perplexity over {len(tokens)} tokens: keys and values in fp32 {exact:.3f}, in int8 {rounded:.3f} ({rounded / exact - 1:+.2%})")
    assert abs(rounded / exact - 1) < 0.005


def test_an_engine_answers_alike_however_its_steps_are_filled(tmp_path: Path) -> None:
    """Alone, in chunks beside each other, and with so few blocks that some give way to others."""
    files = make_tiny_model("llama", tmp_path)
    prompts = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 30, 14))]
    answers, num_preemptions = [], []
    for num_blocks, stagger, budget in ((64, 0, 512), (64, 2, 8), (17, 0, 512)):
        core = engine(files, num_blocks, max_num_batched_tokens=budget, max_num_seqs=4)
        asked = [request(f"r{i}", prompt, max_tokens=12, ignore_eos=True) for i, prompt in enumerate(prompts)]
        outputs = run(core, asked, stagger=stagger)
        answers.append({name: output.token_ids for name, output in outputs.items()})
        num_preemptions.append(sum(output.num_preemptions for output in outputs.values()))
        core.shutdown()
    assert answers[0] == answers[1] == answers[2]
    assert num_preemptions[2] > 0 == num_preemptions[0]


def test_a_prefix_is_found_again_with_its_scales(tmp_path: Path) -> None:
    core, prompt = engine(make_tiny_model("llama", tmp_path)), TOKEN_IDS[:30]

    def answer(name: str) -> Output:
        return run(core, [request(name, prompt, max_tokens=12, ignore_eos=True)])[name]

    first, again = answer("first"), answer("again")
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 28)
    assert again.token_ids == first.token_ids
    core.shutdown()


def test_blocks_that_come_back_from_the_host_bring_their_scales(tmp_path: Path) -> None:
    files, cache = make_tiny_model("llama", tmp_path), {"kv_cache_dtype": "int8", "num_gpu_blocks_override": 6, "block_size": 16}
    core = make_engine(files, model={"max_model_len": 64}, cache=cache, kv_transfer={"kv_offloading_size": 0.01})
    prompts = {f"r{i}": [(7 * i + position * position) % 250 for position in range(50)] for i in range(3)}
    first, again = ([run(core, [request(key, prompt, max_tokens=8)])[key] for key, prompt in prompts.items()] for _ in range(2))
    assert [output.token_ids for output in again] == [output.token_ids for output in first]
    assert [output.num_cached_tokens for output in again] == [48] * 3
    transfers = core.stats().transfers
    assert transfers is not None
    assert transfers.offload is not None
    # Three layers, keys and values of two heads: a byte a number and 4 of a scale.
    num_blocks, rest = divmod(transfers.offload.num_loaded_bytes, 3 * 2 * 16 * 2 * (16 + 4))
    assert (num_blocks > 0, rest) == (True, 0)
    core.shutdown()
