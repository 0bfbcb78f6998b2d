"""Hub models through the real client library, from a Hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, running_hub
from tiny_tokenizers import write_gpt2_tokenizer
from trees import contents

from headway.server.errors import ModelSourceError
from headway.server.source import progress
from headway.server.source.files import ModelFiles
from headway.server.source.hub import HubModel
from headway.server.source.resolve import LoadFormat, resolve_model

FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights", "README.md": b"", "pytorch_model.bin": b"pickle"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def resolve(
    hub: Hub, tmp_path: Path, name: str, *, load_format: LoadFormat = "auto", token: str | None = None, revision: str | None = None
) -> ModelFiles:
    return resolve_model(
        name,
        cache_dir=tmp_path / "cache",
        revision=revision,
        token=token,
        download_dir=str(tmp_path / "hub"),
        load_format=load_format,
        hub_endpoint=hub.url,
    )


def fails(hub: Hub, tmp_path: Path, name: str, match: str, **options: str) -> None:
    with pytest.raises(ModelSourceError, match=match) as caught:
        resolve(hub, tmp_path, name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_ignored_files_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/two"] = FILES | {"model.fp16.safetensors": b"the same"}
    found = HubModel("org/two", None, None, str(tmp_path / "hub"), hub.url, ("*.fp16.*",)).fetch("auto")
    assert contents(found).keys() == {"config.json", "tokenizer.json", "model.safetensors"}


def test_code_is_fetched_only_where_it_is_trusted(hub: Hub, tmp_path: Path) -> None:
    """Also when the rest of the model is there already."""
    hub.repositories["org/code"] = FILES | {"config.json": b'{"auto_map": {}}', "modeling_x.py": b"", "evil/setup.py": b""}
    plain, trusted = (HubModel("org/code", None, None, str(tmp_path / "hub"), hub.url, with_code=trusts) for trusts in (False, True))
    assert contents(plain.fetch("auto")).keys() == {"config.json", "tokenizer.json", "model.safetensors"}
    assert contents(trusted.fetch("auto")).keys() == {"config.json", "tokenizer.json", "model.safetensors", "modeling_x.py"}


def test_modules_of_sentence_transformers_are_fetched_too(hub: Hub, tmp_path: Path) -> None:
    modules = {"1_Pooling/config.json": b"{}", "2_Dense/config.json": b"{}", "2_Dense/model.safetensors": b"weights"}
    hub.repositories["org/three"] = FILES | modules | {"2_Dense/pytorch_model.bin": b"pickle", "onnx/model.onnx": b"other"}
    found = HubModel("org/three", None, None, str(tmp_path / "hub"), hub.url, ()).fetch("auto")
    assert contents(found).keys() == {"config.json", "tokenizer.json", "model.safetensors", *modules}


def test_only_what_is_needed_is_fetched_and_then_kept(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/m"] = FILES | {
        "chat_template.jinja": b"x",
        "original/model.safetensors": b"twice",
        "consolidated.safetensors": b"twice",
    }
    files = resolve(hub, tmp_path, "org/m")
    assert (files.kind, files.name) == ("safetensors", "org/m")
    assert set(contents(files.path)) == {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"}
    hub.requests.clear()
    assert resolve(hub, tmp_path, "org/m") == files
    assert hub.requests == []


def test_a_download_that_was_cut_off_is_completed(hub: Hub, tmp_path: Path) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": b"w" for i in (1, 2)}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()}
    hub.repositories["org/m"] = {"config.json": b"{}", **shards, **index}
    whole = resolve(hub, tmp_path, "org/m")
    (whole.path / "model-00002-of-00002.safetensors").unlink()
    assert resolve(hub, tmp_path, "org/m") == whole
    assert (whole.path / "model-00002-of-00002.safetensors").read_bytes() == b"w"


def test_formats(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/g"] = {"m.gguf": b"GGUF"}
    hub.repositories["org/gs"] = {"a.gguf": b"GGUF", "b.gguf": b"GGUF"}
    hub.repositories["org/p"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    hub.repositories["org/n"] = {"README.md": b""}
    hub.repositories["org/m"] = FILES
    gguf = resolve(hub, tmp_path, "org/g")
    assert (gguf.kind, gguf.path.name) == ("gguf", "m.gguf")
    parts = {f"m-0000{i}-of-00002.gguf": b"GGUF" for i in (1, 2)}
    hub.repositories["org/parts"] = {**parts, "README.md": b""}
    found = resolve(hub, tmp_path, "org/parts")
    assert (found.kind, found.path.name, found.path.parent.name) == (
        "gguf",
        "m-00001-of-00002.gguf",
        found.directory and found.directory.name,
    )
    (found.path.parent / "m-00002-of-00002.gguf").unlink()  # a download that was cut off
    assert resolve(hub, tmp_path, "org/parts") == found
    assert contents(found.path.parent).keys() == parts.keys()
    hub.repositories["org/some"] = {"m-00001-of-00002.gguf": b"GGUF"}
    fails(hub, tmp_path, "org/some", r"org/some is incomplete: 1 weight file missing, such as m-00002-of-00002\.gguf")
    assert set(contents(resolve(hub, tmp_path, "org/m", load_format="dummy").path)) == {"config.json", "tokenizer.json"}
    # The weights are still missing, and are fetched when they are wanted.
    assert "model.safetensors" in contents(resolve(hub, tmp_path, "org/m").path)
    fails(hub, tmp_path, "org/gs", r"holds 2 GGUF files \(a\.gguf, b\.gguf\); download one")
    fails(hub, tmp_path, "org/p", r"only as pytorch_model\.bin: pickle files can run any code")
    fails(hub, tmp_path, "org/n", "no weights that can be served: it needs")
    fails(hub, tmp_path, "org/m", "--load-format gguf", load_format="gguf")


def test_tokenizers_alone(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/m"] = FILES
    directory = HubModel("org/m", download_dir=str(tmp_path), endpoint=hub.url).fetch_tokenizer()
    assert set(contents(directory)) == {"config.json", "tokenizer.json"}


def test_what_the_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/m"] = hub.repositories["org/gated"] = FILES
    hub.gated.add("org/gated")
    fails(hub, tmp_path, "org/missing", f"No model 'org/missing': it is no local path and {hub.url} has no such repository")
    fails(hub, tmp_path, "org/m", "'org/m' has no revision 'v9' on .*; check --revision", revision="v9")
    fails(hub, tmp_path, "org/gated", r"'org/gated' is gated: accept its terms at .* \(--hf-token or HF_TOKEN\)\.$")
    fails(hub, tmp_path, "org/gated", "the token given has no access", token="bad")
    assert resolve(hub, tmp_path, "org/gated", token="good").kind == "safetensors"
    hub.status = 503
    fails(hub, tmp_path, "org/other", "answered 503 when asked for the model 'org/other'; try again")


def test_no_network(tmp_path: Path) -> None:
    fails(Hub(url="http://127.0.0.1:9"), tmp_path, "org/m", r"http://127\.0\.0\.1:9 cannot be reached .*; check the network")


def test_progress_is_told_in_bytes(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    hub.repositories["org/m"] = FILES | {"model.safetensors": bytes(3_000_000)}
    lines: list[str] = []
    resolve_model("org/m", cache_dir=tmp_path, download_dir=str(tmp_path), hub_endpoint=hub.url, on_progress=lines.append)
    assert lines[0] == "downloading org/m from the Hugging Face Hub: 3 files, 3.0 MB"
    assert any(line.startswith("downloading org/m from the Hugging Face Hub: 99% of 3.0 MB, ") for line in lines)


def test_room_on_the_disk_is_asked_for_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/m"] = FILES | {"model.safetensors": bytes(3_000_000)}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3_000_001))
    fails(hub, tmp_path, "org/m", r"The model org/m needs 3\.0 MB more on the disk and .*/hub has 3\.0 MB free; .* --download-dir")
    assert len(hub.requests) == 1
    # What an earlier download left counts.
    blobs = tmp_path / "hub" / "models--org--m" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x.incomplete").write_bytes(bytes(100))
    assert resolve(hub, tmp_path, "org/m").kind == "safetensors"


def test_a_local_model_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    """A directory whose tokenizer transformers must convert, and a model of the Hub cache: not one request, in a process of its own."""
    hub.repositories["org/m"] = FILES
    resolve(hub, tmp_path, "org/m")
    hub.requests.clear()
    local = tmp_path / "org" / "local"
    local.mkdir(parents=True)
    write_gpt2_tokenizer(local)
    (local / "model.safetensors").touch()
    code = f"""
        from pathlib import Path
        from headway.server.source.resolve import resolve_model
        from headway.server.text.tokenizer import load_tokenizer
        cache = Path({str(tmp_path / "cache")!r})
        resolve_model("org/m", download_dir={str(tmp_path / "hub")!r}, cache_dir=cache)
        files = resolve_model("org/local", cache_dir=cache)
        print(load_tokenizer(files, None, cache).vocab_size)
    """
    environment = {**os.environ, "HF_ENDPOINT": hub.url}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment, check=True)
    assert hub.requests == []


def test_a_folder_that_was_misspelt(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    fails(hub, tmp_path, "modls/llama", "No model 'modls/llama': .*; did you mean .*/models")


def test_offline(hub: Hub, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is read by the library when it is imported, so this takes a process of its own."""
    hub.repositories["org/m"] = FILES
    files = resolve(hub, tmp_path, "org/m")
    code = f"""
        from headway.server.errors import ModelSourceError
        from headway.server.source.resolve import resolve_model
        from pathlib import Path
        options = dict(cache_dir=Path({str(tmp_path)!r}), download_dir={str(tmp_path / "hub")!r}, hub_endpoint={hub.url!r})
        print(resolve_model("org/m", **options).path)
        try:
            resolve_model("org/other", **options)
        except ModelSourceError as error:
            print(error)
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=True)
    found, error = result.stdout.splitlines()
    assert found == str(files.path)
    assert error.startswith("The model 'org/other' is not in the Hub cache and HF_HUB_OFFLINE forbids to download it; ")
