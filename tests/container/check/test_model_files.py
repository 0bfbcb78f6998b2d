"""What `headway check` sees of a model on this machine: whole ones, faulty ones, and ones made to harm."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_models import look_at, write_whole_model
from demo_model import demo_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def test_a_whole_model_has_no_faults(tmp_path: Path) -> None:
    look = look_at(write_whole_model(tmp_path / "m"))
    assert (look.problems, look.warnings, look.not_checked) == ([], [], [])
    assert look.place == "this machine"
    assert look.files is not None
    assert look.files.kind == "safetensors"
    assert look.shape is not None
    assert look.shape.use == "generate"
    assert look.weight_file_bytes == sum((tmp_path / "m" / name).stat().st_size for name in (FIRST, SECOND))


def test_a_model_one_folder_down_is_found(tmp_path: Path) -> None:
    write_whole_model(tmp_path / "m" / "inner")
    look = look_at(tmp_path / "m")
    assert look.problems == []
    assert look.files is not None
    assert look.files.path == tmp_path / "m" / "inner"


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(change((directory / name).read_bytes())) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _pipe(name: str) -> Callable[[Path], None]:
    def replace(directory: Path) -> None:
        (directory / name).unlink()
        os.mkfifo(directory / name)

    return replace


def _sparse(name: str, num_bytes: int) -> Callable[[Path], None]:
    return lambda directory: os.truncate(directory / name, num_bytes)


def _twice(directory: Path) -> None:
    save_file({"tensor.1": np.zeros(1, np.float32), "tensor.2": np.zeros(1, np.float32)}, directory / SECOND)


def _escaping_index(directory: Path) -> None:
    (directory / INDEX).write_text(json.dumps({"weight_map": {"tensor.1": "../../secret.safetensors"}}))


def _listed_template(entry: dict[str, Any]) -> Callable[[Path], None]:
    return lambda directory: (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": [entry]})) and None


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "shard missing": (remove(SECOND), f"1 weight file missing, such as {SECOND}"),
    "shard cut off": (edit(FIRST, lambda content: content[:-5]), f"{FIRST} is damaged or cut off"),
    "shard too long": (edit(FIRST, lambda content: content + b"x"), f"{FIRST} is damaged or cut off"),
    "shard is text": (edit(FIRST, lambda _: b"<html>not found</html>"), f"{FIRST} is damaged or cut off"),
    "shard empty": (edit(FIRST, lambda _: b""), f"{FIRST} is damaged or cut off"),
    "header of 1 EiB": (edit(FIRST, lambda content: struct.pack("<Q", 1 << 60) + content[8:]), f"{FIRST} is damaged or cut off"),
    "shard lacks a tensor": (edit(INDEX, lambda c: c.replace(b'"tensor.1"', b'"tensor.9"')), "lacks 1 tensor that the index says it has"),
    "tensor twice": (_twice, f"tensor.1 of {{model}} is in {SECOND} and in {FIRST}"),
    "index leads out": (_escaping_index, "is refused: it names '../../secret.safetensors'"),
    "index is none": (edit(INDEX, lambda _: b"[]"), f"{INDEX} is not a safetensors index"),
    "index is huge": (_sparse(INDEX, 1 << 40), f"{INDEX} is no safetensors index: it is larger than 64 MiB"),
    "config is a pipe": (_pipe("config.json"), "config.json is no regular file"),
    "config is huge": (_sparse("config.json", 1 << 40), "config.json is larger than 32 MiB"),
    "config is no JSON": (edit("config.json", lambda _: b"{"), "config.json cannot be read as JSON"),
    "config is deep": (edit("config.json", lambda _: b"[" * 100_000), "config.json cannot be read as JSON"),
    "config of odd types": (
        edit("config.json", lambda _: b'{"architectures": 5}'),
        "architectures in config.json, or laid over it, must be a list of names, not 5",
    ),
    "architecture unknown": (
        edit("config.json", lambda c: c.replace(b"LlamaFor", b"FalconFor")),
        "is FalconForCausalLM, which is not supported",
    ),
    "tokenizer missing": (remove("tokenizer.json"), "has no tokenizer; copy tokenizer.json"),
    "tokenizer is no JSON": (edit("tokenizer.json", lambda content: content[:100]), "tokenizer.json cannot be read"),
    "tokenizer is none": (edit("tokenizer.json", lambda _: b"{}"), "tokenizer.json has no `model`"),
    "template is no Jinja": (edit("chat_template.jinja", lambda _: b"{% for %}"), "the chat template is no valid Jinja"),
    "template too deep": (
        edit("chat_template.jinja", lambda _: b"{% for a in b %}" * 30 + b"{% endfor %}" * 30),
        "it can't be compiled (SyntaxError)",
    ),
    "template is no text": (edit("chat_template.jinja", lambda _: b"\xff\xfe"), "A chat template in {model} cannot be read"),
    "template has no name": (_listed_template({"template": "x"}), "have no name or text"),
    "template is a number": (_listed_template({"name": "tool_use", "template": 5}), "have no name or text"),
    "template is a pipe": (_pipe("chat_template.jinja"), "chat_template.jinja is no regular file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_model_is_told_as_one_sentence(tmp_path: Path, fault: str) -> None:
    model = write_whole_model(tmp_path / "m")
    spoil, expected = FAULTS[fault]
    spoil(model)
    look = look_at(model)
    assert len(look.problems) == 1, look.problems
    assert expected.format(model=model) in look.problems[0]
    assert "\n" not in look.problems[0]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m", architectures=["FalconForCausalLM"])
    for name in ("shard missing", "shard cut off", "tokenizer missing", "template is no Jinja"):
        FAULTS[name][0](model)
    assert len(look_at(model).problems) == 5


def test_pickles_alone_are_refused(tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m")
    for name in (FIRST, SECOND, INDEX):
        (model / name).unlink()
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (problem,) = look_at(model).problems
    assert "only as pytorch_model.bin: pickle files can run any code" in problem


def test_what_only_works_slowly_or_not_for_chats_is_a_warning(tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m")
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer.json").unlink()
    (model / "vocab.json").write_text("{}")
    look = look_at(model)
    assert look.problems == []
    converted, no_template = look.warnings
    assert "is converted when the server starts" in converted
    assert "no chat template" in no_template


def test_options_about_tokenizer_and_template_count(tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m")
    (model / "tokenizer.json").unlink()
    look = look_at(model, words=("--tokenizer", "org/other", "--chat-template", "{{ messages"))
    (problem,) = look.problems
    assert problem.startswith("--chat-template, template default: the chat template is no valid Jinja")
    assert look.not_checked == ["the tokenizer org/other was not looked at"]


def test_a_draft_model_is_said_to_need_more(tmp_path: Path) -> None:
    words = ("-sc.model", "org/small", "-sc.num_speculative_tokens", "2")
    (told,) = look_at(write_whole_model(tmp_path / "m"), words=words).not_checked
    assert told.startswith("the draft model org/small was not looked at; its weights and its part of the KV cache need memory too")
    assert look_at(tmp_path / "m", words=("-sc.method=ngram", "-sc.num_speculative_tokens=2")).not_checked == []


def test_dummy_weights_need_no_files(tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m")
    for name in (FIRST, SECOND, INDEX):
        (model / name).unlink()
    assert look_at(model, words=("--load-format", "dummy")).problems == []


def test_an_archive_is_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(b"anything")
    for name in (tmp_path, tmp_path / "model.tar.gz"):
        look = look_at(name)
        assert look.problems == []
        (told,) = look.not_checked
        assert "is unpacked when the server starts" in told


def test_a_path_that_is_not_there_and_a_file_that_is_no_model(tmp_path: Path) -> None:
    assert look_at(tmp_path / "nothing").problems[0].startswith(f"The model path {tmp_path}/nothing does not exist")
    (tmp_path / "notes.txt").write_text("")
    assert "is no model; name a .gguf file" in look_at(tmp_path / "notes.txt").problems[0]


def test_a_gguf_file(tmp_path: Path) -> None:
    demo = demo_gguf()
    look = look_at(demo)
    assert (look.problems, look.warnings) == ([], [])
    assert look.shape is not None
    assert look.shape.facts.is_quantized_gguf
    cut = tmp_path / "cut.gguf"
    with demo.open("rb") as source, cut.open("wb") as sink:
        shutil.copyfileobj(source, sink)
        sink.truncate(demo.stat().st_size - 1000)
    (problem,) = look_at(cut).problems
    assert "the file is cut off" in problem


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60)])
def test_a_gguf_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    (problem,) = look_at(tmp_path / "m.gguf").problems
    assert str(tmp_path / "m.gguf") in problem


KEYS = ("architectures", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_scaling", "quantization_config")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(st.sampled_from((*KEYS, "dtype", "vocab_size", "layer_types", "max_position_embeddings")), JSON, max_size=3))
def test_no_config_makes_it_fail(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    """Whatever stands in a config.json, it is read or refused."""
    model = tmp_path_factory.getbasetemp() / "any-config"
    write_whole_model(model, **changes)
    look = look_at(model)
    assert look.shape is not None or look.problems
