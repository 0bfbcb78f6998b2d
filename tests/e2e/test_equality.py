"""Greedy tokens of the demo model equal transformers' own, in fp32, in every way that a batch can be cut. Engines without a server."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from demo_model import demo_gguf
from engine_driver import Output, make_engine, request, run

from headway.server.source.files import ModelFiles
from headway.server.types import GenerateRequest

NUM_PROMPTS = 50
MAX_TOKENS = 20
MAX_TOKENS_ALONE = 8  # a step a token and a request: the slowest way

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
def _judged(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """transformers' likeliest token behind the prompt and behind each of ``tokens`` but the last, and the logprobs of ``tokens``.

    If the likeliest are ``tokens``, these are its greedy answer: each was judged behind those that are its own.
    """
    import torch

    model, _ = _reference_model()
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens[:-1]]]), logits_to_keep=len(tokens)).logits[0].float()
    scores = torch.log_softmax(logits, -1)
    return logits.argmax(-1).tolist(), scores.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def requests(max_tokens: int = MAX_TOKENS) -> list[GenerateRequest]:
    return [request(f"r{i}", prompt, max_tokens=max_tokens, logprobs=2) for i, prompt in enumerate(token_prompts())]


def assert_equal(outputs: dict[str, Output], num_tokens: int = MAX_TOKENS) -> None:
    for i, prompt in enumerate(token_prompts()):
        output = outputs[f"r{i}"]
        assert len(output.token_ids) == num_tokens
        likeliest, scores = _judged(tuple(prompt), tuple(output.token_ids))
        assert output.token_ids == likeliest, f"prompt {i}: {prompts()[i][:40]!r}"
        worst = max(abs(ours.logprob - theirs) for ours, theirs in zip(output.logprobs, scores, strict=True))
        assert worst < 1e-3, f"prompt {i}: logprob off by {worst}"


def test_alone() -> None:
    engine = make_engine(files(), cache={"enable_prefix_caching": False})
    outputs: dict[str, Output] = {}
    for one in requests(MAX_TOKENS_ALONE):
        outputs |= run(engine, [one])
    assert_equal(outputs, MAX_TOKENS_ALONE)


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
