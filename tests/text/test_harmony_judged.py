"""Our reading of gpt-oss's answers is openai-harmony's, with gpt-oss's own vocabulary, which the package litellm ships."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parsed_answers import Told, told
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.text.output import PlainParser
from headway.server.text.reasoning.registry import make_reasoning_parser
from headway.server.text.token_bytes import byte_letters
from headway.server.text.tokenizer import Tokenizer

harmony = pytest.importorskip("openai_harmony")
CLIENTS = Path(__file__).resolve().parents[2] / ".venv" / "clients"
MARKS = {
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    # Named by the SHA-1 of the address that it is from, as tiktoken's cache does.
    name = "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"
    path = next(CLIENTS.glob(f"lib/python3.*/site-packages/{name}"), None)
    if path is None:
        pytest.skip("the vocabulary o200k_base comes with the package litellm; `make clients` installs it")
    return path


@pytest.fixture(scope="module")
def encoding(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("encodings")
    shutil.copy(vocabulary, directory / "o200k_base.tiktoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(directory))
        yield harmony.load_harmony_encoding("HarmonyGptOss")  # compares a checksum


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    """It decodes only."""
    letters = {byte: letter for letter, byte in byte_letters().items()}
    ranks = (line.split() for line in vocabulary.read_bytes().splitlines())
    tokens = {"".join(letters[byte] for byte in base64.b64decode(token)): int(rank) for token, rank in ranks}
    reserved = {f"<|reserved_{token_id}|>": token_id for token_id in range(len(tokens), max(MARKS.values()))}
    taken = set(MARKS.values())
    tokens |= MARKS | {token: token_id for token, token_id in reserved.items() if token_id not in taken}
    backend = Backend(models.BPE(vocab=tokens, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return Tokenizer(backend, special_tokens={"eos_token": "<|return|>"})


def ours(tokenizer: Tokenizer, ids: list[int], size: int) -> Told:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=False)
    pushes = [(detokenizer.push(ids[at : at + size]).text, ids[at : at + size]) for at in range(0, len(ids), size)]
    return told(make_reasoning_parser("openai_gptoss", PlainParser(), tokenizer, is_open=False), [*pushes, (detokenizer.finish(), [])])


def judged(encoding: Any, ids: list[int]) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    parser = harmony.StreamableParser(encoding, harmony.Role.ASSISTANT)
    for token_id in ids:
        parser.process(token_id)
    parser.process_eos()
    reasoning, content, calls = [], [], []
    for message in parser.messages:
        text = "".join(part.text for part in message.content)
        if message.recipient is not None:
            calls.append((message.recipient.removeprefix("functions."), text))
        elif text:
            (reasoning if message.channel == "analysis" else content).append(text)
    return "\n".join(reasoning), "\n".join(content), tuple(calls)


word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda text: "<|" not in text)
plain = st.tuples(st.sampled_from(["analysis", "final", "commentary"]), word).map(lambda m: f"<|channel|>{m[0]}<|message|>{m[1]}<|end|>")
headers = [
    "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>",
    " to=functions.{}<|channel|>commentary json<|message|>",
]
call = st.tuples(st.sampled_from(headers), st.sampled_from(["f", "get_weather", "a.b-c"]), word).map(
    lambda parts: parts[0].format(parts[1]) + '{"x": "' + parts[2] + '"}<|call|>'
)


@given(st.lists(st.one_of(plain, call), min_size=1, max_size=5).map("<|start|>assistant".join), st.integers(1, 9))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_well_formed_answers_are_read_as_the_formats_own_library_does(encoding: Any, tokenizer: Tokenizer, answer: str, size: int) -> None:
    ids = encoding.encode(answer, allowed_special="all")
    found = ours(tokenizer, ids, size)
    assert (found.reasoning, found.content, found.calls) == judged(encoding, ids)
