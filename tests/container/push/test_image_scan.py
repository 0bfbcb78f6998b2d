from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from headway.container.push.image_scan import LayerScan, scan_layers, scan_settings

HF = "hf_" + "a1B2" * 9
KEY = b"-----BEGIN PRIVATE KEY-----\nMII\n"


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def pieces(whole: bytes, size: int = 777) -> Iterator[bytes]:
    return (whole[i : i + size] for i in range(0, len(whole), size))


def scan(*layers: dict[str, bytes], mode: str = "w") -> LayerScan:
    """An image in the form of OCI, as newer engines save it: layers and configurations side by side, named by digests."""
    blobs = {f"blobs/sha256/{i:064x}": tar_of(layer, mode) for i, layer in enumerate(layers)}
    blobs["blobs/sha256/config"] = b'{"architecture": "amd64"}'
    return scan_layers(pieces(tar_of({**blobs, "manifest.json": b"[]", "index.json": b"{}", "oci-layout": b"{}"})))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_file_that_a_later_layer_deletes_is_found(mode: str) -> None:
    found = scan({"root/.aws/credentials": b"[default]"}, {"root/.aws/.wh.credentials": b""}, mode=mode)
    assert [str(finding) for finding in found.findings] == ["a layer's file /root/.aws/credentials: AWS credentials"]
    assert (found.num_files, found.num_unread) == (2, 0)


def test_the_older_form_is_read_too() -> None:
    layer = tar_of({"./app/.netrc": b"machine x login y password z"})
    saved = tar_of({"abc/VERSION": b"1.0", "abc/json": b"{}", "abc/layer.tar": layer, "manifest.json": b"[]", "repositories": b"{}"})
    assert [finding.place for finding in scan_layers(pieces(saved)).findings] == ["a layer's file /app/.netrc"]


@pytest.mark.parametrize(
    ("path", "content", "is_found"),
    [
        ("root/.docker/config.json", b'{"auths": {"x": {"auth": "abc"}}}', True),
        ("root/.docker/config.json", b'{"credsStore": "ecr-login"}', False),
        ("home/me/.npmrc", b"//registry/:_authToken=abc", True),
        ("home/me/.npmrc", b"fund=false", False),
        ("root/.cache/huggingface/token", b"abc", True),
        ("run/secrets/key", b"abc", True),
        ("app/.env", b"A=1\nHF_TOKEN=abc\n", True),
        ("app/.env.production", b"HF_TOKEN=ssm:/prod/token\n", False),
        ("app/server.key", KEY, True),
        ("etc/ssl/server.pem", KEY, True),
        ("opt/ml/model/notes.txt", f"token {HF}".encode(), True),
        ("opt/headway/lib/python3.11/site-packages/x/tests/server.key", KEY, False),
        ("usr/share/doc/x/examples/key.pem", KEY, False),
        ("usr/local/bin/start.sh", f"login {HF}".encode(), True),
        ("opt/ml/model/model.safetensors", KEY + bytes(70_000), False),
        ("app/empty.key", b"", False),
    ],
)
def test_files_are_judged_by_name_and_content(path: str, content: bytes, is_found: bool) -> None:
    assert bool(scan({path: content}).findings) is is_found


def test_a_layer_in_an_unknown_form_is_counted_not_passed_over() -> None:
    saved = tar_of({"blobs/sha256/zstd": b"\x28\xb5\x2f\xfd" + bytes(600), "blobs/sha256/ok": tar_of({"a": b"b"})})
    found = scan_layers(pieces(saved))
    assert (found.num_unread, found.num_files) == (1, 1)


def test_the_bill_of_materials_is_counted() -> None:
    parts = [
        {"name": "torch", "purl": "pkg:pypi/torch@2", "licenses": [{"license": {"id": "BSD-3-Clause"}}]},
        {"name": "odd", "purl": "pkg:pypi/odd@1", "licenses": [{"license": {"name": "not stated"}}]},
        {"name": "bash", "purl": "pkg:deb/debian/bash@5", "licenses": [{"license": {"name": "GPL-3+"}}]},
    ]
    inventory = scan({"usr/share/headway/sbom.cdx.json": json.dumps({"components": parts}).encode()}).inventory
    assert inventory is not None
    assert inventory.num_parts == {"pypi": 2, "deb": 1}
    assert inventory.without_licence == ["odd"]
    assert scan({"usr/share/headway/sbom.cdx.json": b"[1]"}).inventory is None
    assert scan({}).inventory is None


def test_settings_and_history_are_searched_and_a_variable_is_told_once() -> None:
    config = {"Env": ["PATH=/bin", f"HF_TOKEN={HF}"], "Labels": {"note": f"by {HF}"}, "Cmd": ["serve", "--header", f"x {HF}"]}
    history = [{"CreatedBy": "RUN curl https://me:pw@x"}, {"CreatedBy": f"ENV HF_TOKEN={HF}"}, {"CreatedBy": None}]
    places = [found.place for found in scan_settings(config, history)]
    assert places == ["environment HF_TOKEN", "label note", "cmd", "history, step 3"]
    assert scan_settings({"Env": None, "Labels": None, "Cmd": None}, []) == []
