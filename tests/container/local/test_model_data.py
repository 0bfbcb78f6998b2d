"""Model data from S3: laid out as the platform does, with nothing outside of its directory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trees import contents

from headway.container.local.errors import PlatformError
from headway.container.local.model_data import ModelData, fetch_artifact, fetch_model_data
from headway.container.local.storage import open_storage
from headway.server.errors import ModelSourceError

BUCKET = "model-data"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with open_storage({}) as storage:
        storage.s3.create_bucket(Bucket=BUCKET)
        yield storage.s3


@pytest.fixture
def s3(client: Any) -> Any:
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    return client


def put(s3: Any, **files: bytes) -> None:
    for key, content in files.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)


def packed(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def source(uri: str, kind: str = "S3Prefix", compression: str = "None", **more: Any) -> dict[str, Any]:
    return {"S3DataSource": {"S3Uri": uri, "S3DataType": kind, "CompressionType": compression, **more}}


def test_an_archive(s3: Any, tmp_path: Path) -> None:
    put(s3, **{"m.tar.gz": packed({"config.json": b"{}", "code/model.py": b""})})
    found = fetch_model_data({"ModelDataUrl": f"s3://{BUCKET}/m.tar.gz"}, tmp_path, s3)
    assert found == ModelData(tmp_path / "model", None)
    assert contents(tmp_path) == {"model/config.json": b"{}", "model/code/model.py": b""}


def test_a_prefix_and_channels(s3: Any, tmp_path: Path) -> None:
    put(s3, **{"m/config.json": b"{}", "m/sub/w": b"w", "mother": b"", "draft.tar.gz": packed({"d": b"d"}), "one/file.gguf": b"g"})
    definition = {
        "ModelDataSource": source(f"s3://{BUCKET}/m/", ModelAccessConfig={"AcceptEula": True}),
        "AdditionalModelDataSources": [
            {"ChannelName": "draft", **source(f"s3://{BUCKET}/draft.tar.gz", "S3Object", "Gzip")},
            {"ChannelName": "one", **source(f"s3://{BUCKET}/one/file.gguf", "S3Object")},
        ],
    }
    found = fetch_model_data(definition, tmp_path, s3)
    assert found == ModelData(tmp_path / "model", tmp_path / "additional-model-data-sources")
    assert contents(tmp_path) == {
        "model/config.json": b"{}",
        "model/sub/w": b"w",
        "additional-model-data-sources/draft/d": b"d",
        "additional-model-data-sources/one/file.gguf": b"g",
    }


def test_a_container_without_model_data(tmp_path: Path, s3: Any) -> None:
    assert fetch_model_data({"Image": "i"}, tmp_path, s3) == ModelData(None, None)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("m/../../escaped", r"its part '\.\.' can't be a file name"),
        ("m//config.json", "its part '' can't"),
        ("m/folder/", "its part '' can't"),
        ("m/./x", r"its part '\.' can't"),
        ("m/" + "n" * 256, "can't be a file name"),
    ],
)
def test_names_that_are_no_paths(key: str, reason: str, s3: Any, tmp_path: Path) -> None:
    put(s3, **{key: b"x"})
    with pytest.raises(ModelSourceError, match=reason):
        fetch_model_data({"ModelDataSource": source(f"s3://{BUCKET}/m/")}, tmp_path, s3)
    assert contents(tmp_path) == {}


def test_a_file_that_is_a_folder_too(s3: Any, tmp_path: Path) -> None:
    put(s3, **{"m/weights": b"x", "m/weights/part1": b"y"})
    with pytest.raises(ModelSourceError, match="weights would be a file and a folder"):
        fetch_model_data({"ModelDataSource": source(f"s3://{BUCKET}/m/")}, tmp_path, s3)


def test_an_archive_that_reaches_outside(s3: Any, tmp_path: Path) -> None:
    put(s3, **{"bad.tar.gz": packed({"../outside": b"x"})})
    with pytest.raises(ModelSourceError, match=rf"^s3://{BUCKET}/bad.tar.gz is refused: .*leads outside"):
        fetch_artifact(f"s3://{BUCKET}/bad.tar.gz", tmp_path / "adapter", s3)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("definition", [{"ModelDataUrl": f"s3://{BUCKET}/none.tar.gz"}, {"ModelDataSource": source("s3://no-bucket/m/")}])
def test_what_is_not_there(definition: dict[str, Any], s3: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r'Failed to download model data from URL: "s3://.*Please ensure'):
        fetch_model_data(definition, tmp_path, s3)


def test_an_empty_prefix(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="holds 0 objects"):
        fetch_model_data({"ModelDataSource": source(f"s3://{BUCKET}/m/")}, tmp_path, s3)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"ModelDataUrl": "s3://b/k.tar.gz", "ModelDataSource": source("s3://b/")}, "both"),
        ({"ModelDataUrl": "https://b.s3.amazonaws.com/k"}, "s3://BUCKET/KEY"),
        ({"ModelDataUrl": "s3://b/prefix/"}, r"one \.tar\.gz"),
        ({"ModelDataSource": source("s3://b/m")}, "must end in a slash"),
        ({"ModelDataSource": source("s3://b/m/", "S3Prefix", "Gzip")}, "does not go with"),
        ({"ModelDataSource": {}}, "needs S3DataSource"),
        ({"ModelDataSource": source("s3://b/m/", ManifestS3Uri="s3://b/x")}, "ManifestS3Uri"),
    ],
)
def test_definitions_that_make_no_sense(definition: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=reason):
        fetch_model_data(definition, tmp_path, None)
