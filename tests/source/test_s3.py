"""Models in S3, from a real S3 interface on this machine."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from s3_server import BUCKET, S3
from trees import contents

from headway.server.errors import ModelSourceError
from headway.server.source import progress
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import LoadFormat, resolve_model, resolve_tokenizer
from headway.server.source.s3 import fetch_from_s3

PART = 1 << 16
NUM_PARTS = 12
WEIGHTS = random.Random(0).randbytes(PART * (NUM_PARTS - 1) + 1000)
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_templates/tool.jinja": b"x",
    "model.safetensors": WEIGHTS,
}
NOT_NEEDED = {"pytorch_model.bin": b"pickle", "model.py": b"code", "README.md": b"", "original/model.safetensors": b"twice"}
URI = f"s3://{BUCKET}/org/m/"


def below(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}{name}": content for name, content in files.items()}


def resolve(uri: str, cache: Path, load_format: LoadFormat = "auto", lines: list[str] | None = None) -> ModelFiles:
    return resolve_model(uri, cache_dir=cache, load_format=load_format, on_progress=None if lines is None else lines.append)


def fails(uri: str, cache: Path, match: str, load_format: LoadFormat = "auto") -> None:
    with pytest.raises(ModelSourceError, match=match) as caught:
        resolve(uri, cache, load_format)
    assert "\n" not in str(caught.value)


def test_what_is_needed_is_fetched_and_kept(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL | NOT_NEEDED))
    lines: list[str] = []
    files = resolve(URI, tmp_path, lines=lines)
    assert (files.kind, files.name) == ("safetensors", URI)
    assert contents(files.path) == MODEL
    assert files.path.is_relative_to(tmp_path)
    assert lines[:2] == [f"looking at {URI}", f"downloading {URI}: 4 files, 721.9 kB"]

    s3.requests.clear()
    assert resolve(URI.removesuffix("/"), tmp_path).path == files.path
    assert s3.requests == [f"GET /{BUCKET}"]


def test_a_new_version_is_fetched_and_the_old_one_stays(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL))
    old = resolve(URI, tmp_path)
    s3.put({"org/m/config.json": b'{"a": 1}'})

    def fail_once() -> None:
        s3.on_range = None
        raise RuntimeError("500 for the client, which asks again")

    s3.on_range = fail_once
    new = resolve(URI, tmp_path)
    assert contents(new.path) == MODEL | {"config.json": b'{"a": 1}'}
    assert contents(old.path) == MODEL


def test_a_damaged_copy_is_fetched_again(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL))
    files = resolve(URI, tmp_path)
    (files.path / "model.safetensors").write_bytes(b"short")
    assert contents(resolve(URI, tmp_path).path) == MODEL


def test_a_whole_copy_needs_no_s3(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put(below("org/m/", MODEL) | {"g/m.gguf": b"GGUF"})
    files = resolve(URI, tmp_path)
    gguf = resolve(f"s3://{BUCKET}/g/m.gguf", tmp_path)
    lines: list[str] = []
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert resolve(URI, tmp_path, lines=lines) == files
    assert resolve(f"s3://{BUCKET}/g/m.gguf", tmp_path) == gguf
    assert f"the copy in {files.path} is used as it is" in lines[-1]
    fails(f"s3://{BUCKET}/other/", tmp_path, r"cannot be read: http://127\.0\.0\.1:9 cannot be reached .*; check the network")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert resolve(URI, tmp_path) == files
    fails(f"s3://{BUCKET}/other/", tmp_path, "There are no AWS credentials to read .*; run with a role")


def test_large_objects_come_in_parts(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL))
    directory = fetch_from_s3(URI, "auto", tmp_path, part_bytes=PART)
    assert contents(directory) == MODEL
    assert len([request for request in s3.ranges if "model.safetensors" in request]) == NUM_PARTS


def test_an_answer_that_breaks_off_is_asked_for_again(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    s3.put(below("org/m/", MODEL))
    s3.num_to_break = 3
    lines: list[str] = []
    assert contents(fetch_from_s3(URI, "auto", tmp_path / "a", lines.append, part_bytes=PART)) == MODEL
    assert len([line for line in lines if ": 100% of " in line]) == 1  # what came of the broken answers counts for nothing
    s3.num_to_break = 1000
    fails(URI, tmp_path / "b", r"cannot be read: .* cannot be reached \(")


FETCH = """
import sys
from pathlib import Path
from headway.server.source.s3 import fetch_from_s3
print(fetch_from_s3(sys.argv[1], "auto", Path(sys.argv[2]), part_bytes=int(sys.argv[3])))
"""


def fetching(cache: Path) -> subprocess.Popen[str]:
    """A process of its own that fetches the model; its environment is ours."""
    return subprocess.Popen([sys.executable, "-c", FETCH, URI, str(cache), str(PART)], stdout=subprocess.PIPE, text=True)


def test_a_download_that_was_killed_goes_on(s3: S3, tmp_path: Path) -> None:
    s3.put({"org/m/config.json": b"{}", "org/m/model.safetensors": WEIGHTS})
    allowed, killed = threading.Semaphore(6), threading.Event()
    s3.on_range = lambda: None if allowed.acquire(blocking=False) else (killed.wait(60), None)[1]
    process = fetching(tmp_path)
    # All have been asked for, so that none is counted below, and six have arrived.
    while len(s3.ranges) <= NUM_PARTS or sum(log.read_text().count("\n") - 1 for log in tmp_path.rglob("*.log")) < 6:
        assert process.poll() is None
        killed.wait(0.02)
    process.kill()
    process.communicate()
    killed.set()
    # Half a line that the kill left: of part 11, say, but it reads as another that is missing.
    log = next(tmp_path.rglob("model.safetensors.log"))
    log.write_text(log.read_text() + next(str(index) for index in range(10) if f"\n{index}\n" not in log.read_text()))
    s3.on_range = None
    s3.requests.clear()
    assert contents(fetch_from_s3(URI, "auto", tmp_path, part_bytes=PART))["model.safetensors"] == WEIGHTS
    assert len(s3.ranges) == NUM_PARTS + 1 - 6


def interrupted(s3: S3, cache: Path) -> Path:
    """Leaves a download of the model with some parts missing; returns what there is of the weights."""
    s3.put({"org/m/config.json": b"{}", "org/m/model.safetensors": WEIGHTS})
    s3.on_range = lambda: setattr(s3, "refusal", (400, "Enough")) if len(s3.ranges) > 8 else None
    with pytest.raises(ModelSourceError, match="S3 answered Enough when asked for"):
        fetch_from_s3(URI, "auto", cache, part_bytes=PART)
    s3.on_range = s3.refusal = None
    s3.requests.clear()
    return next(cache.rglob("model.safetensors"))


def test_a_part_that_was_damaged_is_found_out(s3: S3, tmp_path: Path) -> None:
    partial = interrupted(s3, tmp_path)
    done = [int(line) for line in next(tmp_path.rglob("model.safetensors.log")).read_text().split("\n")[1:-1]]
    with open(partial, "r+b") as file:
        file.seek(done[0] * PART)
        file.write(b"damaged")
    with pytest.raises(
        ModelSourceError, match=r"model\.safetensors from .* does not match its CRC32 checksum: .*; its copy has been deleted"
    ):
        fetch_from_s3(URI, "auto", tmp_path, part_bytes=PART)
    assert fetch_from_s3(URI, "auto", tmp_path, part_bytes=PART).is_dir()


def test_a_part_of_another_version_counts_for_nothing(s3: S3, tmp_path: Path) -> None:
    interrupted(s3, tmp_path)
    other = WEIGHTS[::-1]
    s3.put({"org/m/model.safetensors": other})
    assert contents(fetch_from_s3(URI, "auto", tmp_path, part_bytes=PART))["model.safetensors"] == other
    assert len([request for request in s3.ranges if "model.safetensors" in request]) == NUM_PARTS


def test_a_file_of_another_version_is_left_out(s3: S3, tmp_path: Path) -> None:
    interrupted(s3, tmp_path)
    s3.client.delete_object(Bucket=BUCKET, Key="org/m/config.json")
    assert contents(fetch_from_s3(URI, "auto", tmp_path, part_bytes=PART)) == {"model.safetensors": WEIGHTS}


def test_an_object_that_changes_meanwhile(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL))
    first, changed = threading.Semaphore(1), threading.Event()

    def change() -> None:
        """By the first range; no range is answered before."""
        if first.acquire(blocking=False):
            s3.put({"org/m/model.safetensors": b"new", "org/m/config.json": b"new"})
            changed.set()
        assert changed.wait(60)

    s3.on_range = change
    fails(URI, tmp_path, r"s3://models/org/m/.* was changed while it was downloaded; start again")
    assert not [request for request in s3.requests if request.startswith("HEAD")]  # noticed before all of it was there


def test_objects_uploaded_in_parts_are_checked(s3: S3, tmp_path: Path) -> None:
    parts = [random.Random(i).randbytes(size) for i, size in enumerate((5 << 20, 5 << 20, 1000))]
    s3.put({"org/m/config.json": b"{}"})
    s3.put_in_parts("org/m/model.safetensors", parts)
    directory = fetch_from_s3(URI, "auto", tmp_path)
    assert (directory / "model.safetensors").read_bytes() == b"".join(parts)
    assert "HEAD /models/org/m/model.safetensors" in s3.requests


def test_two_processes_fetch_it_once(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL))
    both_there = threading.Barrier(2)
    lists = threading.Semaphore(2)

    def meet() -> None:
        if lists.acquire(blocking=False):
            both_there.wait(60)

    s3.on_list = meet
    processes = [fetching(tmp_path) for _ in range(2)]
    answers = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(answers) == 1
    assert contents(Path(answers.pop())) == MODEL
    assert len(s3.ranges) == NUM_PARTS + 3


def test_formats_and_layouts(s3: S3, tmp_path: Path) -> None:
    s3.put(below("nested/inner/", MODEL) | {"nested/code/inference.py": b""})
    s3.put({"g/a.gguf": b"GGUF", "g/b.gguf": b"GGUF", "g/config.json": b"{}"})
    s3.put(below("two/a/", MODEL) | below("two/b/", MODEL))
    nested = resolve(f"s3://{BUCKET}/nested/", tmp_path)
    assert nested.path.name == "inner"
    assert contents(nested.path) == MODEL
    gguf = resolve(f"s3://{BUCKET}/g/b.gguf", tmp_path)
    assert (gguf.kind, gguf.path.name) == ("gguf", "b.gguf")
    assert set(contents(resolve(f"s3://{BUCKET}/g", tmp_path, "dummy").path)) == {"config.json"}
    fails(f"s3://{BUCKET}/g", tmp_path, r"holds 2 GGUF files \(a\.gguf, b\.gguf\); name the one to serve, such as s3://models/g/a\.gguf")
    s3.put({f"parts/m-0000{i}-of-00002.gguf": b"GGUF" for i in (1, 2)})
    parts = resolve(f"s3://{BUCKET}/parts/", tmp_path)
    assert (parts.path.name, len(contents(parts.path.parent))) == ("m-00001-of-00002.gguf", 2)
    fails(f"s3://{BUCKET}/parts/m-00001-of-00002.gguf", tmp_path, "is one part of a model; name the prefix of all of them")
    fails(f"s3://{BUCKET}/two", tmp_path, r"holds 2 models \(a, b\); name one")
    s3.put({"p/config.json": b"{}", "p/pytorch_model.bin": b"", "t/vocab.txt": b""})
    fails(f"s3://{BUCKET}/p/", tmp_path, r"s3://models/p/ has its weights only as pytorch_model\.bin: pickle files can run any code")
    fails(f"s3://{BUCKET}/t/", tmp_path, "no weights that can be served: it needs")


def test_archives(s3: S3, tmp_path: Path) -> None:
    packed = tmp_path / "model.tar.gz"
    (tmp_path / "m").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "m" / name).write_bytes(MODEL[name])
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "m", "m")
    s3.put({"jobs/1/model.tar.gz": packed.read_bytes(), "jobs/1/output/log.txt": b""})
    for uri in (f"s3://{BUCKET}/jobs/1/model.tar.gz", f"s3://{BUCKET}/jobs/1/"):
        files = resolve(uri, tmp_path / "cache")
        assert (files.kind, files.name) == ("safetensors", uri)
        assert contents(files.path) == {name: MODEL[name] for name in ("config.json", "model.safetensors")}


def test_tokenizers(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL) | {"no/config.json": b"{}"})
    directory = resolve_tokenizer(URI, cache_dir=tmp_path)
    assert set(contents(directory)) == {"config.json", "tokenizer.json", "chat_templates/tool.jinja"}
    with pytest.raises(ModelSourceError, match="s3://models/no/ holds no tokenizer"):
        resolve_tokenizer(f"s3://{BUCKET}/no", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "keys", [("../config.json", "../model.safetensors"), ("config.json", "a\\b.safetensors"), ("config.json", "x" * 300 + ".safetensors")]
)
def test_keys_that_are_no_file_names_are_refused(keys: tuple[str, str], s3: S3, tmp_path: Path) -> None:
    s3.put({f"org/m/{key}": b"{}" for key in keys})
    fails(URI, tmp_path / "cache", "s3://models/org/m/ is refused: it holds the key 'org/m/.*', which is no file name; rename it")
    assert list(tmp_path.iterdir()) == []


def test_what_s3_refuses(s3: S3, tmp_path: Path) -> None:
    fails("s3://nobody/m/", tmp_path, f"There is no S3 bucket nobody at {s3.url}; check the spelling of s3://nobody/m/")
    fails(URI, tmp_path, "s3://models/org/m/ holds no objects; check the prefix")
    fails(f"s3://{BUCKET}/a.gguf", tmp_path, r"There is no s3://models/a\.gguf; check the spelling")
    for uri in ("s3://", "s3:///m", "s3://../m/", "s3://b\n/m"):
        fails(uri, tmp_path, "names no S3 bucket; write s3://BUCKET/PREFIX/")
    for status, code, match in [
        (403, "AccessDenied", r"S3 refuses access to s3://models/org/m/ \(AccessDenied\): .* s3:ListBucket"),
        (403, "InvalidAccessKeyId", r"S3 does not take the AWS credentials in use for .* \(InvalidAccessKeyId\); renew"),
        (400, "Strange", "S3 answered Strange when asked for s3://models/org/m/: no; try again"),
    ]:
        s3.refusal = (status, code)
        fails(URI, tmp_path, match)


def test_room_on_the_disk_is_asked_for_first(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put(below("org/m/", MODEL))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500_000))
    fails(
        URI,
        tmp_path / "cache",
        r"The model s3://models/org/m/ needs 721\.9 kB more on the disk and .*/cache/.* has 500\.0 kB free; "
        r"free space there, or set HEADWAY_CACHE to a directory on a larger disk\.$",
    )
    assert s3.ranges == []


def test_a_cache_that_cannot_be_written(s3: S3, tmp_path: Path) -> None:
    s3.put(below("org/m/", MODEL))
    (tmp_path / "cache").write_text("a file")
    fails(URI, tmp_path / "cache", "A copy of s3://models/org/m/ cannot be kept in .*cache/.*: .*; make it writable, or set HEADWAY_CACHE")
