"""The demo model, read from its GGUF by us and by transformers, and in 8 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from demo_model import demo_files
from forward_batches import Sequence, Stepper
from perplexity import demo_tokenizer, divergence, log_probabilities, perplexity

from headway.server.distributed.groups import SINGLE
from headway.server.loading.loader import LoadedModel, Quantization, load_model
from headway.server.loading.model_config import read_config

# The opening of Darwin's On the Origin of Species (1859).
TEXT = (
    "When on board H.M.S. Beagle, as naturalist, I was much struck with certain facts in the distribution of the inhabitants of "
    "South America, and in the geological relations of the present to the past inhabitants of that continent. These facts seemed "
    "to me to throw some light on the origin of species, that mystery of mysteries, as it has been called by one of our greatest "
    "philosophers. On my return home, it occurred to me, in 1837, that something might perhaps be made out on this question by "
    "patiently accumulating and reflecting on all sorts of facts which could possibly have any bearing on it. After five years' "
    "work I allowed myself to speculate on the subject, and drew up some short notes; these I enlarged in 1844 into a sketch of "
    "the conclusions, which then seemed to me probable: from that period to the present day I have steadily pursued the same "
    "object. I hope that I may be excused for entering on these personal details, as I give them to show that I have not been "
    "hasty in coming to a decision."
)


def load(quantization: Quantization) -> LoadedModel:
    return load_model(
        demo_files(),
        dtype="float32",
        device=torch.device("cpu"),
        quantization=quantization,
        load_format="auto",
        group=SINGLE,
        seed=0,
        max_model_len=1024,
    )


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("none")


@pytest.fixture(scope="module")
def loaded_int8() -> LoadedModel:
    return load("int8")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return demo_tokenizer()


@pytest.fixture(scope="module")
def reference() -> Any:
    import transformers

    path = demo_files().path
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    ).eval()


def test_config_out_of_the_metadata() -> None:
    config = read_config(demo_files())
    assert (config.architecture, config.num_layers, config.hidden_size, config.head_dim) == ("llama", 30, 576, 64)
    assert (config.num_heads, config.num_kv_heads, config.vocab_size, config.max_model_len) == (9, 3, 49152, 8192)
    assert config.tie_word_embeddings
    assert config.rope.theta == 100000
    assert config.is_quantized_gguf


@torch.inference_mode()
def test_logits_equal_transformers(loaded: LoadedModel, tokenizer: Any, reference: Any) -> None:
    token_ids = tokenizer(TEXT).input_ids[:64]
    expected = reference(torch.tensor([token_ids])).logits[0]
    found = Stepper(loaded.model, block_size=16).run(token_ids, [30, 1, 33])
    # Logits lie between -15 and 30; thirty layers of fp32 sums in another order.
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    torch.testing.assert_close(found.log_softmax(-1).exp(), expected.log_softmax(-1).exp(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_greedy_answer(loaded: LoadedModel, loaded_int8: LoadedModel, tokenizer: Any, quantization: Quantization) -> None:
    model = (loaded if quantization == "none" else loaded_int8).model
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    sequence = Sequence(list(prompt))
    stepper = Stepper(model, block_size=16)
    pending = len(sequence.token_ids)
    for _ in range(16):
        token = int(stepper.step([(sequence, pending)])[0][-1].argmax())
        if token == tokenizer.eos_token_id:
            break
        sequence.token_ids.append(token)
        pending = 1
    assert tokenizer.decode(sequence.token_ids[len(prompt) :]) == "The capital of France is Paris."


def test_distribution_in_8_bits(loaded: LoadedModel, loaded_int8: LoadedModel, tokenizer: Any) -> None:
    """Perplexity over so few tokens moves by a percent by chance (tests/loading/test_rotation.py has ten times as many)."""
    token_ids = tokenizer(TEXT).input_ids
    exact, rounded = (log_probabilities(it.model, token_ids) for it in (loaded, loaded_int8))
    before, kl = perplexity(exact, token_ids), divergence(rounded, exact)
    print(f"over {len(token_ids)} tokens: perplexity {before:.4f}, KL divergence in int8 {kl:.4f}")
    assert before < 30, "the model reads English"
    assert kl < 0.02
