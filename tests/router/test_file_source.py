"""The file that names the servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.server.errors import ConfigError
from headway.server.router.sources.base import Listing
from headway.server.router.sources.file import ServerFile

A, B = "http://a:8080", "https://b"


@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n{B}\n",
        f"# ours\n{A}\n\n  {B}/\n{A}",
        f"{A}  # the large one\n# http://c, away\n{B}\n",
        f'["{A}", "{B}"]',
        f"- {A}\n- {B}  # the large one\n",
        f'{{"servers": ["{A}", "{B}"]}}',
        f"servers:\n  - HTTP://A:8080\n  - {B}\n",
        f"\ufeff{A}\n{B}",
    ],
)
def test_lists_lines_and_objects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "servers"
    path.write_text(text)
    assert ServerFile(str(path)).listing == Listing([A, B])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no server"),
        ("[]", "names no server"),
        ("{servers: 5}", "names no server"),
        ("[1, 2]", "names no server"),
        ("{", "neither JSON nor YAML"),
        ("ftp://a", "got 'ftp://a'"),
        ("http://a/v1", "got 'http://a/v1'"),
        ("http://a?", "got 'http://a?'"),
        ("http://a..b", "got 'http://a..b'"),
        ("http://a#b", "got 'http://a#b'"),
        ("http://a\nb", "got 'b'"),
        (f"http://{'b' * 64}.example", "got 'http://bbb"),
        ("http://a b", "got 'http://a b'"),
        ("http://[::1", "got 'http://[::1'"),
        ("http://user:secret@a", "got 'a'"),
        ("http://a:99999", "got 'http://a:99999'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "servers"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ServerFile(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        ServerFile(str(tmp_path / "none"))


def test_a_change_is_handed_over_once_and_a_broken_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "servers"
    path.write_text(A)
    file, changes = ServerFile(str(path)), []
    file.look(changes.append)
    assert changes == []
    path.write_text(f"{A}\n{B}")
    file.look(changes.append)
    file.look(changes.append)
    assert changes == [Listing([A, B])]
    path.write_text("")
    file.look(changes.append)
    file.look(changes.append)
    assert changes == [Listing([A, B])]
    assert caplog.text.count("the servers before stay") == 1


def test_the_halves_of_servers_that_are_paired(tmp_path: Path) -> None:
    path = tmp_path / "servers.yaml"
    path.write_text(f"prefill: [{A}]\ndecode:\n  - {B}/\n")
    assert ServerFile(str(path), is_paired=True).listing == Listing(serving=[B], prefill=[A])


@pytest.mark.parametrize(
    ("text", "is_paired", "said"),
    [
        (A, True, "names no halves"),
        (f"decode: [{A}]", True, "names no prefill server"),
        (f"prefill: [{A}]\ndecode: []", True, "names no decode server"),
        (f"prefill: [{A}]\ndecode: [{A}]", True, "names http://a:8080 as a prefill and as a decode server"),
        (f"prefill: [{A}]\ndecode: [{B}]", False, "which are for --policy disaggregated"),
    ],
)
def test_halves_that_cannot_be_used(tmp_path: Path, text: str, is_paired: bool, said: str) -> None:
    path = tmp_path / "servers"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        ServerFile(str(path), is_paired)
