"""Names of models: local files and how mistakes are told."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from demo_model import demo_files, demo_gguf

from headway.server.errors import ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.source.hub import HubModel
from headway.server.source.resolve import LoadFormat, resolve_model, resolve_tokenizer


def make_model(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("{}")
    return directory


NO_CACHE = Path("/proc/nowhere")
SAFETENSORS = ("config.json", "model.safetensors", "tokenizer.json")


def resolve(name: str | Path, load_format: LoadFormat = "auto") -> ModelFiles:
    """With a cache that can't be used: what is local needs none."""
    return resolve_model(str(name), cache_dir=NO_CACHE, load_format=load_format)


def fails(name: str | Path, match: str, load_format: LoadFormat = "auto") -> None:
    with pytest.raises(ModelSourceError, match=match) as caught:
        resolve(name, load_format)
    assert "\n" not in str(caught.value)


def test_the_demo_model() -> None:
    files = demo_files()
    assert (files.kind, files.name, files.directory) == ("gguf", "demo", None)
    assert files.path == demo_gguf()
    assert files.path.stat().st_size == 98_362_432
    fails("demo", "GGUF file, which --load-format safetensors excludes", "safetensors")


def test_directories_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_model(tmp_path / "plain", *SAFETENSORS)
    gguf = make_model(tmp_path / "gguf", "m.gguf")
    both = make_model(tmp_path / "both", *SAFETENSORS, "m.gguf")
    nested = tmp_path / "nested"
    make_model(nested / "inner", *SAFETENSORS)
    bare = make_model(tmp_path / "bare", "config.json")

    assert resolve(plain) == ModelFiles("safetensors", plain, None, str(plain))
    assert resolve(gguf) == ModelFiles("gguf", gguf, gguf / "m.gguf", str(gguf))
    assert resolve(gguf / "m.gguf") == ModelFiles("gguf", None, gguf / "m.gguf", str(gguf / "m.gguf"))
    assert resolve(both).kind == "safetensors"
    assert resolve(both, "gguf").path == both / "m.gguf"
    assert resolve(nested).path == nested / "inner"
    assert resolve(bare, "dummy").path == bare
    monkeypatch.chdir(tmp_path)
    assert resolve("plain") == ModelFiles("safetensors", plain, None, "plain")
    assert resolve("nested/inner").path == nested / "inner"


def test_a_gguf_in_parts(tmp_path: Path) -> None:
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    parts = make_model(tmp_path / "parts", *names)
    assert resolve(parts) == ModelFiles("gguf", parts, parts / names[0], str(parts))
    assert resolve(parts / names[1]) == ModelFiles("gguf", None, parts / names[0], str(parts / names[1]))
    (tmp_path / "blobs").mkdir()
    (parts / names[0]).rename(tmp_path / "blobs" / "0af3")  # as the Hub's cache keeps it
    (parts / names[0]).symlink_to(tmp_path / "blobs" / "0af3")
    assert resolve(parts / names[0]).path == parts / names[0]
    make_model(parts, "n-00001-of-00002.gguf")
    fails(parts, r"holds 4 GGUF files \(.*\); name the one to serve")
    fails(parts / "n-00001-of-00002.gguf", r"parts is incomplete: 1 weight file missing, such as n-00002-of-00002\.gguf; copy all of them")
    (parts / "n-00001-of-00002.gguf").unlink()
    (parts / names[2]).unlink()
    fails(parts, r"parts is incomplete: 1 weight file missing, such as m-00003-of-00003\.gguf; copy all of them")


def test_names_of_many_parts_take_no_memory(tmp_path: Path) -> None:
    """A repository is anybody's: 50 names that each say 99,999 parts were 500 MB."""
    directory = make_model(tmp_path / "many", *(f"m{i}-00001-of-99999.gguf" for i in range(50)))
    tracemalloc.start()
    try:
        fails(directory, r"holds 50 GGUF files \(.*\); name the one to serve")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_directories_without_a_model(tmp_path: Path) -> None:
    fails(make_model(tmp_path / "empty"), r"empty is empty \(needs config\.json and \*\.safetensors, or one \.gguf file\)")
    fails(
        make_model(tmp_path / "pickled", "config.json", "pytorch_model.bin"), r"only as pytorch_model\.bin: pickle files can run any code"
    )
    fails(make_model(tmp_path / "bare", "model.safetensors"), r"no config\.json")
    fails(make_model(tmp_path / "other", "readme.md"), r"other holds readme\.md but no model \(needs ")
    fails(make_model(tmp_path / "three", "a.gguf", "b.gguf", "c.gguf"), r"holds 3 GGUF files \(a\.gguf, b\.gguf, c\.gguf\); name the one")
    fails(make_model(tmp_path / "plain", *SAFETENSORS), "needs one .gguf file for --load-format gguf", "gguf")
    for name in ("a", "b"):
        make_model(tmp_path / "two" / name, *SAFETENSORS)
    fails(tmp_path / "two", r"holds 2 models \(a, b\); name one")
    fails(tmp_path / "bare" / "model.safetensors", "the one file of a model")
    fails(tmp_path / "other" / "readme.md", "is no model; name a .gguf file, a directory with")


def test_file_addresses(tmp_path: Path) -> None:
    make_model(tmp_path / "a model", *SAFETENSORS)
    address = f"file://{tmp_path}/a%20model"
    assert resolve(address) == ModelFiles("safetensors", tmp_path / "a model", None, address)
    assert resolve(address.replace("file://", "file://localhost")).path == tmp_path / "a model"
    assert resolve_tokenizer(address, cache_dir=tmp_path / "cache") == tmp_path / "a model"
    fails(f"file://{tmp_path}/a%20modle", r"The model path file:///.* does not exist; did you mean .*/a model")
    fails("file://elsewhere/m", "is no path on this machine; write file:///path with three slashes")
    fails("file://", "is no path on this machine")
    with pytest.raises(ModelSourceError, match=r"The tokenizer path file:///.* does not exist"):
        resolve_tokenizer(f"file://{tmp_path}/another", cache_dir=tmp_path / "cache")


def test_a_tokenizer_of_the_hub_has_a_revision_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[HubModel] = []
    monkeypatch.setattr(HubModel, "fetch_tokenizer", lambda model, on_progress: asked.append(model))
    resolve_tokenizer("org/t", cache_dir=tmp_path, revision="v2")
    assert [(model.repo_id, model.revision, model.revision_flag) for model in asked] == [("org/t", "v2", "--tokenizer-revision")]


def test_a_model_directory_is_only_read(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", *SAFETENSORS)
    before = {path.name: path.stat().st_mtime_ns for path in (model, *model.iterdir())}
    model.chmod(0o555)
    resolve(model)
    assert {path.name: path.stat().st_mtime_ns for path in (model, *model.iterdir())} == before


def test_missing_shards(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", "config.json", "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    fails(model, r"incomplete: 1 weight file missing, such as model-00002-of-00002\.safetensors")
    (model / "model.safetensors.index.json").write_text("[]")
    fails(model, "not a safetensors index")


@pytest.mark.parametrize("shard", ["/etc/hostname", "../other/model.safetensors", "a/b.safetensors", "a\0", "..", 1, None, ["x"]])
def test_an_index_that_leads_elsewhere(shard: object, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", *SAFETENSORS)
    make_model(tmp_path / "other", *SAFETENSORS)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    fails(model, r"is refused: it names .*, which is no file beside it|is not a safetensors index|missing, such as \.\.; copy")


def test_an_index_that_nests_without_end(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", *SAFETENSORS)
    (model / "model.safetensors.index.json").write_text("[" * 100_000)
    fails(model, "is not a safetensors index")


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    make_model(tmp_path / "llama-3", *SAFETENSORS)
    make_model(tmp_path / "qwen", *SAFETENSORS)
    fails(tmp_path / "lama-3", "does not exist; did you mean .*/llama-3\\?$")
    fails(tmp_path / "zzz" / "yyy", f"does not exist; the nearest directory that exists is {tmp_path}, which holds llama-3, qwen[.]$")
    fails("./nowhere.gguf", r"The model path \./nowhere\.gguf does not exist")
    fails("not a hub id", "neither a path that exists here nor a Hub id")
    fails("./" + "x" * 300, "does not exist")
    fails("x" * 300, "neither a path that exists here nor a Hub id")
    fails("~nobody-of-that-name/m", "names no home directory that is known here")
    fails("a\0b", "neither a path that exists here nor a Hub id")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's view")
def test_what_is_closed_to_this_user() -> None:
    with tempfile.TemporaryDirectory() as closed:
        os.seteuid(65534)
        try:
            fails(f"{closed}/m", f"{closed}/m cannot be read: Permission denied; make it readable for this user")
        finally:
            os.seteuid(0)
