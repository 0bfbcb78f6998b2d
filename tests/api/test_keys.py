"""API keys: what a file of them may hold, how it is followed, what a refusal says, which paths stay open."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_server import ApiServer

from headway.server.api.keys import ApiKeys
from headway.server.config.security import SecurityConfig, security_problems, security_warnings
from headway.server.errors import ConfigError

HASH = hashlib.sha256(b"hashed-key").hexdigest()


def keys_of(path: Path, *fixed: str) -> ApiKeys:
    return ApiKeys(SecurityConfig(api_key=list(fixed), api_key_file=str(path)))


def status(server: ApiServer, key: str) -> int:
    return server.client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_what_a_file_may_hold(file: Path) -> None:
    text = f"# of the team\r\n\r\n  plain-key \r\nbase64+key==\na=b#c\nsha256:{HASH.upper()}\nalice@a.org = sha256:{'0' * 64}\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    keys = keys_of(file, "fixed")
    for key in (b"plain-key", b"base64+key==", b"a=b#c", b"hashed-key", b"fixed"):
        assert keys.find(key) is not None, key
    for key in (b"", b"# of the team", HASH.encode(), f"sha256:{HASH}".encode(), b"plain", b"alice@a.org", b"\0" * 32):
        assert keys.find(key) is None, key


def test_a_name_goes_with_its_hash(file: Path) -> None:
    file.write_text(f"alice=sha256:{HASH}\n")
    key = keys_of(file).find(b"hashed-key")
    assert key is not None
    assert key.name == "alice"
    assert "hashed-key" not in repr(keys_of(file).__dict__)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "holds no key; write one a line, or leave the option out to serve without keys"),
        (b" \n# nothing\n", "holds no key; write one a line, or leave the option out to serve without keys"),
        (b"ok\nsha256:s3cret\n", "line 2 must be sha256: and 64 hexadecimal digits, or NAME=sha256: and these (it is not shown)"),
        (b"a=SHA256:s3cret", "line 1 must be sha256: and 64 hexadecimal digits, or NAME=sha256: and these (it is not shown)"),
        *(
            (text, "line 1 is no key: a key is one word of visible ASCII characters without quotes and commas")
            for text in (b"s3cret,s3cret", b'["s3cret"]', b"s3cret s3cret", b"s3cr\xc3\xa9t", b"s3cret\0", b"'s3cret'", b"s3cret\x85x")
        ),
        (b"x" * (1024 * 1024 + 1), "is larger than 1 MiB"),
    ],
)
def test_a_file_that_can_not_be_used_ends_the_start(content: bytes | None, why: str, file: Path) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        keys_of(file)
    assert caught.value.problems == [f"--api-key-file {file}: {why}"]


def test_a_pipe_does_not_hold_up_the_start(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="is no file that can be read again"):
        keys_of(file)


def test_a_change_counts_and_a_broken_file_does_not(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headway.server.api.keys")
    file.write_text("old-key\n")
    keys = keys_of(file, "fixed")
    keys.reload()
    assert not caplog.records
    file.write_text("new-key\nother-key\n")
    keys.reload()
    assert keys.find(b"new-key")
    assert keys.find(b"fixed")
    assert keys.find(b"old-key") is None
    for content in ("", "bad key", "bad key"):
        file.write_text(content)
        keys.reload()
    file.unlink()
    keys.reload()
    assert keys.find(b"new-key")
    file.write_text("last-key")
    keys.reload()
    assert keys.find(b"last-key")
    assert [record.getMessage().removeprefix(f"--api-key-file {file}") for record in caplog.records] == [
        " has changed and holds 2 keys now",
        ": holds no key; write one a line, or leave the option out to serve without keys; the keys before stay valid",
        ": line 1 is no key: a key is one word of visible ASCII characters without quotes and commas; the keys before stay valid",
        ": can't be read: No such file or directory; the keys before stay valid",
        " has changed and holds 1 key now",
    ]


def test_a_server_follows_every_way_to_change_a_file(tmp_path: Path) -> None:
    """Written in place, renamed over, and swapped as Kubernetes swaps a mounted Secret."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "keys").write_text(f"secret-{number}\n")
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "keys"
    file.symlink_to("..data/keys")
    with ApiServer(security={"api_key": ["fixed"], "api_key_file": str(file)}) as server:
        assert [status(server, key) for key in ("secret-1", "secret-2", "fixed")] == [200, 401, 200]
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        server.wait_for(lambda: status(server, "secret-2") == 200)
        assert [status(server, key) for key in ("secret-1", "fixed")] == [401, 200]
        (tmp_path / "fresh").write_text("renamed\n")
        (tmp_path / "fresh").rename(file)
        server.wait_for(lambda: status(server, "renamed") == 200)
        file.write_text("written\n")
        server.wait_for(lambda: status(server, "written") == 200)
        assert [status(server, key) for key in ("renamed", "secret-2")] == [401, 401]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "This server needs an API key: send it as the header `Authorization: Bearer KEY`."),
        ("", "The Authorization header must hold the word Bearer, a blank and the API key: send `Authorization: Bearer KEY`."),
        ("a-key", "The Authorization header must hold the word Bearer, a blank and the API key: send `Authorization: Bearer KEY`."),
        ("Basic a-key", "The Authorization header must hold the word Bearer, a blank and the API key: send `Authorization: Bearer KEY`."),
        ("Bearer", "The Authorization header must hold the word Bearer, a blank and the API key: send `Authorization: Bearer KEY`."),
        ("Bearer b-key", "This API key is not valid: send one that is, as the header `Authorization: Bearer KEY`."),
    ],
)
def test_a_refusal_says_what_to_send(guarded: ApiServer, header: str | None, message: str) -> None:
    answer = guarded.client.get("/load", headers={} if header is None else {"authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == {"message": message, "type": "AuthenticationError", "param": None, "code": 401}


@pytest.fixture(scope="module")
def guarded() -> Iterator[ApiServer]:
    options = {"api_key": ["a-key"], "api_key_open_prefixes": ["/docs", "/v1/models/", "/openapi.json"]}
    with ApiServer(security=options) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/docs", 200), ("/docs/oauth2-redirect", 200), ("/openapi.json", 200), ("/v1/models", 200), ("/v1/models/tiny", 200),
        ("/v1/models%2Ftiny", 200),  # what the router takes it for, too
        ("/docs-2", 401), ("/DOCS", 401), ("/v1/model", 401), ("/v1", 401), ("/redoc", 401), ("//docs", 401), ("/./docs", 401),
        ("/docs/../v1/completions", 401), ("/docs/%2e%2e/v1/completions", 401), ("/docs/..%2fv1/completions", 401),
        ("/docs//v1", 401), ("/docs%2F%2Fx", 401), ("/docs/%252e%252e/x", 401), ("/docs/..%5cv1", 401), ("/x/docs", 401),
        ("/docs;x", 401), ("/load?/docs", 401), ("/load#/docs", 401),
    ],
)  # fmt: skip
def test_open_prefixes_are_whole_segments_of_the_path_as_it_is_served(guarded: ApiServer, path: str, expected: int) -> None:
    assert raw_status(guarded, path) == expected


@pytest.mark.parametrize(("path", "expected"), [("/docs", 200), ("/models/docs", 401), ("/models/v1/models", 401), ("/modelsdocs", 401)])
def test_open_prefixes_below_a_root_path(path: str, expected: int) -> None:
    with ApiServer(security={"api_key": ["k"], "api_key_open_prefixes": ["/docs"]}, network={"root_path": "/models"}) as server:
        assert raw_status(server, path) == expected


def raw_status(server: ApiServer, path: str) -> int:
    """Of a path as it stands here: clients would tidy it up."""
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("prefix", ["docs", "/", "", "//x", "/a//b", "/a/../b", "/./a", "/a%2Fb", "/a b", "/a?b", "/a\\b", "/a#b"])
def test_prefixes_that_could_mean_more_are_refused(prefix: str) -> None:
    (problem,) = security_problems(SecurityConfig(api_key=["k"], api_key_open_prefixes=[prefix]))
    assert problem == (
        "--api-key-open-prefixes must hold paths such as /docs, without %, //, . and .., and not / itself; got " + repr(prefix)
    )


def test_open_prefixes_without_keys_are_told_to_be_unused() -> None:
    assert len(security_warnings(SecurityConfig(api_key_open_prefixes=["/docs"]))) == 1
    assert security_warnings(SecurityConfig(api_key_open_prefixes=["/docs"], api_key_file="/k")) == []


def test_a_key_file_elsewhere_is_refused() -> None:
    (problem,) = security_problems(SecurityConfig(api_key_file="s3://bucket/keys"))
    assert problem.startswith("--api-key-file must be the path of a local file, got 's3://bucket/keys'")
