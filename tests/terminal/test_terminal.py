"""`headway chat` and `headway complete` against a real server."""

from __future__ import annotations

import io
import os
import socket
import sys
from pathlib import Path

import pytest
from api_server import ApiServer
from rich.console import Console

from headway.server.config.network import NetworkConfig
from headway.server.errors import ConfigError
from headway.server.remote.endpoint import ServerUnreachable
from headway.server.terminal import cli
from headway.server.terminal.cli import main
from headway.server.terminal.lines import entered
from headway.server.terminal.printing import printable
from headway.server.terminal.stream import AnswerFailed


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def last_prompt(server: ApiServer) -> str:
    return server.tokenizer.decode(server.engine.requests[-1].prompt_token_ids, skip_special_tokens=False)


def test_one_question(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("chat", ["--url", f"{server.url}/v1/", "-q", "hi", "--max-tokens", "7", "--system-prompt", "be brief"], {}) == 0
    assert capsys.readouterr().out == "hello world\n"
    assert last_prompt(server) == "<system>be brief|<user>hi|<assistant>"
    assert server.engine.requests[-1].sampling.max_tokens == 7


def test_a_server_is_found_on_the_usual_ports(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.url.rpartition(":")[2])
    assert cli._PORTS[0] == NetworkConfig().port
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    for ports in ((port, nobody), (nobody, port)):
        monkeypatch.setattr(cli, "_PORTS", ports)
        assert main("chat", ["-q", "hi"], {}) == 0
        assert capsys.readouterr().out == "hello world\n"


def test_a_conversation_remembers(server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    type_lines(monkeypatch, "one", "", "two")
    assert main("chat", ["--url", server.url], {}) == 0
    assert last_prompt(server) == "<user>one|<assistant>hello world|<user>two|<assistant>"
    assert capsys.readouterr().out == "hello world\n" * 2


def test_commands_of_a_conversation(server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    type_lines(monkeypatch, "one", "/system be brief", "two", "/reset", "three", "/wrong")
    assert main("chat", ["--url", server.url], {}) == 0
    prompts = [server.tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False) for request in server.engine.requests]
    assert prompts[1:] == ["<system>be brief|<user>two|<assistant>", "<system>be brief|<user>three|<assistant>"]
    assert "There is no /wrong" in capsys.readouterr().out


def test_texts_are_continued(server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    type_lines(monkeypatch, "one two", "three")
    assert main("complete", ["--url", server.url, "--temperature", "0"], {}) == 0
    assert capsys.readouterr().out == "hello world\n" * 2
    assert [request.sampling.temperature for request in server.engine.requests] == [0, 0]


def test_a_failed_question_is_told_and_forgotten(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AnswerFailed, match="max_tokens"):
        main("chat", ["--url", server.url, "-q", "hi", "--max-tokens", "-1"], {})
    type_lines(monkeypatch, "x" * 5000, "short")
    assert main("chat", ["--url", server.url], {}) == 0
    assert "Shorten the prompt" in capsys.readouterr().out
    assert last_prompt(server) == "<user>short|<assistant>"


def test_an_error_does_not_steer_the_terminal(server: ApiServer) -> None:
    server.engine.fail_after, server.engine.error = 1, "\x1b[2Jgone"
    with pytest.raises(AnswerFailed) as failure:
        main("chat", ["--url", server.url, "-q", "hi"], {})
    assert "\\x1b[2Jgone" in str(failure.value)


def test_the_name_of_a_model_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    typed, told = io.StringIO(), io.StringIO()
    monkeypatch.setattr(typed, "isatty", lambda: True)
    lines = entered(typed, Console(file=told), "a[/b]\x1b[2J:")
    monkeypatch.setattr("builtins.input", _end_of_input)
    assert list(lines) == []
    assert "a[/b]\\x1b[2J: End" in told.getvalue()


def _end_of_input(prompt: str) -> str:
    raise EOFError


def test_an_answer_that_breaks_off(server: ApiServer) -> None:
    server.engine.fail_after, server.engine.error = 1, "the device fell off"
    with pytest.raises(AnswerFailed, match="fell off"):
        main("complete", ["--url", server.url, "-q", "hi"], {})


def test_the_key_comes_from_the_environment() -> None:
    with ApiServer(security={"api_key": ["sesame"]}) as server:
        with pytest.raises(ServerUnreachable, match="HEADWAY_API_KEY"):
            main("chat", ["--url", server.url, "-q", "hi"], {})
        assert main("chat", ["--url", server.url, "-q", "hi"], {"OPENAI_API_KEY": "sesame"}) == 0


def test_what_can_not_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="No server answers"):
        main("chat", ["--url", "http://127.0.0.1:1", "-q", "hi"], {})
    with pytest.raises(ConfigError, match="--url"):
        main("chat", ["demo", "--url", "http://127.0.0.1:1"], {})
    with pytest.raises(ConfigError, match="--ssl-keyfile can't be set here"):
        main("chat", ["demo", "--ssl-keyfile", str(tmp_path)], {})
    with pytest.raises(ConfigError, match="http://"):
        main("chat", ["--url", "localhost:8080"], {})


def test_a_model_can_not_steer_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\n\t\u2003é👩\u200d🚀") == "a\\x1b]0;title\\x07b\n\t\u2003é👩\u200d🚀"


@pytest.mark.e2e
def test_a_server_for_one_question(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--max-model-len", "256", "-q", "What is the capital of England?", "--temperature", "0", "--max-tokens", "8"]
    assert main("chat", words, dict(os.environ)) == 0
    assert "London" in capsys.readouterr().out
