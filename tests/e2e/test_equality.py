"""Greedy tokens of the demo model equal transformers' own, in fp32, in every way that a batch can be cut."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from demo_model import demo_gguf
from engine_driver import Output, make_engine, request, run

from headway.server.source.files import ModelFiles

pytestmark = pytest.mark.e2e
NUM_PROMPTS = 50
MAX_TOKENS = 20

_TOPICS = [
    "The capital of France is",
    "Water boils at",
    "def fibonacci(n):\n",
    "Once upon a time, in a small village,",
    "The three primary colours are",
    "In 1969, the first man",
    "A recipe for tomato soup:\n1.",
    "The difference between a list and a tuple in Python",
    "Roses are red,",
    "E = mc^2 means that",
]


def prompts() -> list[str]:
    """50 prompts of 3 to about 200 tokens."""
    made = [topic + " and also" * (k * (i % 7)) for k in range(5) for i, topic in enumerate(_TOPICS)]
    assert len(made) == NUM_PROMPTS
    return made


@cache
def files() -> ModelFiles:
    path = Path(demo_gguf())
    return ModelFiles("gguf", None, path, "demo")


@cache
def token_prompts() -> list[list[int]]:
    return [_reference_model()[1](text)["input_ids"] for text in prompts()]


@cache
def _reference_model():  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = files().path
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return model.eval(), tokenizer


@cache
def expected() -> list[tuple[list[int], list[float]]]:
    """transformers' greedy tokens and their logprobs for each prompt."""
    import torch

    model, _ = _reference_model()
    answers = []
    for prompt in token_prompts():
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=MAX_TOKENS, do_sample=False,
                eos_token_id=None, pad_token_id=2, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        tokens = out.sequences[0, len(prompt) :].tolist()
        scores = [torch.log_softmax(logits[0].float(), -1)[token].item() for token, logits in zip(tokens, out.logits, strict=True)]
        answers.append((tokens, scores))
    return answers


def requests(**sampling):  # type: ignore[no-untyped-def]
    return [request(f"r{i}", prompt, max_tokens=MAX_TOKENS, logprobs=2, **sampling) for i, prompt in enumerate(token_prompts())]


def assert_equal(outputs: dict[str, Output]) -> None:
    for i, (tokens, scores) in enumerate(expected()):
        output = outputs[f"r{i}"]
        assert output.token_ids == tokens, f"prompt {i}: {prompts()[i][:40]!r}"
        worst = max(abs(ours.logprob - theirs) for ours, theirs in zip(output.logprobs, scores, strict=True))
        assert worst < 1e-3, f"prompt {i}: logprob off by {worst}"


def test_alone() -> None:
    engine = make_engine(files(), cache={"enable_prefix_caching": False})
    outputs: dict[str, Output] = {}
    for one in requests():
        outputs |= run(engine, [one])
    assert_equal(outputs)


def test_in_mixed_batches_that_arrive_over_time() -> None:
    assert_equal(run(make_engine(files()), requests(), stagger=2))


def test_with_chunked_prefill() -> None:
    engine = make_engine(files(), scheduler={"max_num_batched_tokens": 24, "max_num_seqs": 16}, cache={"enable_prefix_caching": False})
    assert_equal(run(engine, requests()))


def test_with_prefix_cache_hits() -> None:
    engine = make_engine(files(), cache={"block_size": 4})
    run(engine, requests())
    outputs = run(engine, requests())
    assert sum(output.num_cached_tokens for output in outputs.values()) > 500
    assert_equal(outputs)


def test_across_forced_preemption() -> None:
    # 60 blocks of 8 tokens hold a few of the requests at a time, and the longest by itself.
    engine = make_engine(files(), cache={"num_gpu_blocks_override": 60, "block_size": 8}, scheduler={"max_num_seqs": 16})
    outputs = run(engine, requests())
    assert sum(output.num_preemptions for output in outputs.values()) > 0
    assert_equal(outputs)


def test_prompt_logprobs_agree_also_in_chunks() -> None:
    import torch

    model, _ = _reference_model()
    engine = make_engine(files(), scheduler={"max_num_batched_tokens": 17, "max_num_seqs": 4})
    prompt = token_prompts()[48]
    output = run(engine, [request("p", prompt, max_tokens=1, prompt_logprobs=3)])["p"]
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.tensor([prompt])).logits[0].float(), -1)
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(prompt)
    assert output.prompt_logprobs[0] is None
    for position, entry in enumerate(output.prompt_logprobs[1:], start=1):
        assert entry is not None
        assert entry.token_id == prompt[position]
        assert entry.logprob == pytest.approx(scores[position - 1, prompt[position]].item(), abs=1e-3)
        assert [token for token, _ in entry.top] == scores[position - 1].topk(3).indices.tolist()
