"""Our tokenizers against transformers' reading of the same files."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from demo_model import demo_files
from gguf_tokenizer_files import write_gguf_tokenizer, write_sentencepiece_tokenizer
from tiny_tokenizers import byte_level_backend, write_gpt2_tokenizer

from headway.server.errors import ModelSourceError, RequestError
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer, load_tokenizer


def varied_texts() -> list[str]:
    """200 texts: languages, code, white space, digits, emoji, special tokens, and random Unicode."""
    fixed = [
        "",
        " ",
        "Hello world",
        "  two  blanks ",
        "\t\tdef f(x):\n\t\treturn x  # done\n\n\n",
        "for (int i = 0; i < 10; ++i) { a[i] *= 2.5e-3; }\r\n",
        "なぜ空は青いのですか。天空为什么是蓝色的？ 하늘은 왜 파란가요",
        "Ünïcödé Straße İstanbul ﬁ ligature café cafe\u0301",
        "👩‍👩‍👧‍👦 🇩🇪 👍🏽 😀😀",
        "مرحبا بالعالم שלום עולם नमस्ते",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|endoftext|><repo_name>a/b<file_sep><filename>x.py<|im_end",
        "1234567890 3.14159 1,000,000 ½ ² ①",
        "don't I'll we've they're it's DON'T",
        "\u0000\u0001\x7f\u200b\ufeff\ufffd",
        "a" * 3000,
        "https://example.com/a?b=c&d=%20#e mail@example.org",
        '{"a": [1, 2, {"b": null}], "c": "\\u00e9"}',
    ]
    chance = random.Random(7)
    ranges = [(32, 126), (32, 126), (160, 591), (0x370, 0x5FF), (0x900, 0x97F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
    while len(fixed) < 200:
        letters = [chr(chance.randint(*chance.choice(ranges))) if chance.random() > 0.2 else chance.choice(" \n\t0.") for _ in range(60)]
        fixed.append("".join(letters))
    return fixed


def test_the_demo_model_reads_as_in_transformers(demo_tokenizer: Tokenizer, reference_tokenizer: Any) -> None:
    for text in varied_texts():
        ids = demo_tokenizer.encode(text, add_special_tokens=True)
        assert ids == reference_tokenizer(text)["input_ids"], repr(text)
        for skip in (False, True):
            assert demo_tokenizer.decode(ids, skip_special_tokens=skip) == reference_tokenizer.decode(ids, skip_special_tokens=skip)


def test_the_demo_model_has_the_special_tokens_of_transformers(demo_tokenizer: Tokenizer, reference_tokenizer: Any) -> None:
    assert demo_tokenizer.encode("Hello world", add_special_tokens=True) == [19556, 905]
    assert demo_tokenizer.special_tokens == reference_tokenizer.special_tokens_map
    assert demo_tokenizer.eos_token_ids == (2,)
    assert demo_tokenizer.eos_token_id == reference_tokenizer.eos_token_id
    assert (demo_tokenizer.bos_token, demo_tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert demo_tokenizer.vocab_size == len(reference_tokenizer) == 49152
    assert demo_tokenizer.special_ids == set(reference_tokenizer.all_special_ids) | set(range(17))
    assert demo_tokenizer.chat_templates == {"default": reference_tokenizer.chat_template}


def test_loading_the_demo_model_imports_nothing_heavy() -> None:
    code = """
        import os, sys
        from pathlib import Path
        from headway.server.source.cache import cache_directory
        from headway.server.source.resolve import resolve_model
        from headway.server.text import chat_template, detokenizer
        from headway.server.text.tokenizer import load_tokenizer
        load_tokenizer(resolve_model("demo", cache_dir=cache_directory(os.environ)), None, Path("/nonexistent"))
        print([name for name in ("torch", "transformers", "huggingface_hub", "gguf") if name in sys.modules])
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def load(directory: Path, **config: Any) -> Tokenizer:
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return load_tokenizer(ModelFiles("safetensors", directory, None, "m"), None, directory / "cache")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": True},
        {"add_bos_token": False, "add_eos_token": False},
        {"added_tokens_decoder": {"263": {"content": "<tool>", "special": False, "normalized": False}}},
        {"eos_token": {"content": "hell", "lstrip": False, "__type": "AddedToken"}},
    ],
)
def test_a_directory_reads_as_in_transformers(model_directory: Path, config: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    ours = load(model_directory, **{"bos_token": "<bos>", "eos_token": "<eos>", **config})
    theirs = AutoTokenizer.from_pretrained(str(model_directory))
    for text in ("hello wörld <tool> <eos>", "", " hell"):
        assert ours.encode(text, add_special_tokens=True) == theirs(text)["input_ids"]
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False)["input_ids"]
        ids = ours.encode(text, add_special_tokens=True)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_eos_tokens_of_tokenizer_and_generation_config(model_directory: Path) -> None:
    (model_directory / "generation_config.json").write_text('{"eos_token_id": [7, 262]}')
    assert load(model_directory, eos_token="<eos>").eos_token_ids == (262, 7)
    (model_directory / "generation_config.json").unlink()
    (model_directory / "config.json").write_text('{"eos_token_id": 9}')
    assert load(model_directory).eos_token_ids == (9,)


def test_where_chat_templates_come_from(model_directory: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    assert load(model_directory).chat_templates == {}
    assert load(model_directory, chat_template="x").chat_templates == {"default": "x"}
    assert load(model_directory, chat_template=named).chat_templates == {"default": "a", "tool_use": "b"}
    (model_directory / "chat_template.jinja").write_text("file")
    assert load(model_directory, chat_template=named).chat_templates == {"default": "file", "tool_use": "b"}


def test_what_only_transformers_can_read_is_converted_once(tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    write_gpt2_tokenizer(tmp_path)
    lines: list[str] = []
    files = ModelFiles("safetensors", tmp_path, None, "m")
    for _ in range(2):
        ours = load_tokenizer(files, None, tmp_path / "cache", on_progress=lines.append)
        theirs = GPT2Tokenizer.from_pretrained(str(tmp_path))
        assert ours.encode("hello wörld<|endoftext|>", add_special_tokens=True) == theirs("hello wörld<|endoftext|>")["input_ids"]
        assert ours.eos_token_ids == (263,)
    assert len(lines) == 1
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert len(load_tokenizer(files, None, tmp_path / "cache", on_progress=lines.append).encode("hello", add_special_tokens=True)) == 5
    assert len(lines) == 2


def test_a_gguf_without_a_way_to_split_words_goes_through_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    letters = list(json.loads(byte_level_backend().to_str())["model"]["vocab"])
    merges = ["h e", "l l", "he ll", "Ġ w", "Ã ©"]
    files = write_gguf_tokenizer(tmp_path / "m.gguf", [*letters, "<eos>", "<turn>"], merges, "default", num_special=2)
    ours = load_tokenizer(files, None, tmp_path / "cache")
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    text = "hello wörld 12345<turn>"
    assert ours.encode(text, add_special_tokens=True) == theirs(text)["input_ids"]
    assert ours.eos_token_ids == (len(letters), len(letters) + 1)
    assert ours.chat_templates == {"default": "{{ messages }}"}


@pytest.mark.parametrize(("architecture", "known"), [("llama", "llama"), ("gemma", "gemma2"), ("phi3", "phi3"), ("granite", "llama")])
def test_a_gguf_with_sentencepiece_whatever_its_architecture(tmp_path: Path, architecture: str, known: str) -> None:
    """transformers reads the GGUF files of some alone."""
    from transformers import AutoTokenizer

    tokens = ["▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "w", "▁w", "▁▁"]
    ours = load_tokenizer(write_sentencepiece_tokenizer(tmp_path / "m.gguf", architecture, tokens), None, tmp_path / "cache")
    write_sentencepiece_tokenizer(tmp_path / "known.gguf", known, tokens)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="known.gguf")
    text = " hello  wörld hell"
    assert ours.encode(text, add_special_tokens=True) == theirs(text)["input_ids"]
    assert (ours.bos_token, ours.eos_token_ids) == ("<s>", (2,))
    (folder,) = (tmp_path / "cache" / "tokenizers").iterdir()
    assert not list(folder.glob("*.gguf"))


def test_a_gguf_whose_tokenizer_is_none(tmp_path: Path) -> None:
    files = write_sentencepiece_tokenizer(tmp_path / "m.gguf", "llama", ["a"])
    files.path.write_bytes(files.path.read_bytes().replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
    with pytest.raises(ModelSourceError, match=r"no tokenizer in .*m\.gguf that can be read: .*--tokenizer"):
        load_tokenizer(files, None, tmp_path / "cache")


def test_another_tokenizer_by_path(model_directory: Path) -> None:
    (model_directory / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    ours = load_tokenizer(demo_files(), str(model_directory), model_directory / "cache")
    assert ours.vocab_size == 263
    assert ours.eos_token_ids == (262,)


def test_bad_files_are_named(model_directory: Path, tmp_path: Path) -> None:
    (model_directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelSourceError, match=r"tokenizer\.json cannot be read: .*copy or download it again"):
        load(model_directory)
    (model_directory / "tokenizer.json").unlink()
    (model_directory / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelSourceError, match=r"no tokenizer in .* --tokenizer"):
        load(model_directory)


def test_text_that_is_no_unicode(demo_tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"U\+D83D, half of a surrogate pair"):
        demo_tokenizer.encode("a \ud83d b", add_special_tokens=False)
