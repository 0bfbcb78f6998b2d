"""`headway run-batch` against real servers: answers, failures, what a second run makes of the first one's results."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.batch.cli import main
from headway.server.batch.results import ResultFile
from headway.server.errors import ConfigError
from headway.server.remote.endpoint import ServerUnreachable

CHAT = "/v1/chat/completions"


def line(custom_id: str, url: str = CHAT, **body: Any) -> str:
    asked = body or {"messages": [{"role": "user", "content": "hi"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked})


def run(tmp_path: Path, url: str, *words: str) -> tuple[int, list[Any]]:
    """(exit status, the results)"""
    files = ["-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--url", url]
    status = main([*files, *words], {})
    return status, [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]


def write(tmp_path: Path, *lines: str) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")


@contextmanager
def moody(statuses: list[int]) -> Iterator[tuple[str, list[str]]]:
    """(url, paths asked for) of a server that answers with these statuses, one after the other, then with 200."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            status = statuses.pop(0) if statuses else 200
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_every_line_gets_its_answer(tmp_path: Path, server: ApiServer) -> None:
    write(tmp_path, line("a"), line("b", "/v1/completions", prompt="one", max_tokens=4), "", line("c", "/tokenize", prompt="one"))
    status, results = run(tmp_path, f"{server.url}/v1")
    assert status == 0
    by_id = {result["custom_id"]: result for result in results}
    assert by_id.keys() == {"a", "b", "c"}
    assert all(result["error"] is None and result["response"]["status_code"] == 200 for result in results)
    assert by_id["a"]["response"]["body"]["choices"][0]["message"]["content"] == "hello world"
    assert by_id["b"]["response"]["body"]["object"] == "text_completion"
    assert by_id["a"]["response"]["body"]["id"] == f"chatcmpl-{by_id['a']['response']['request_id']}", "the log can be searched for it"


def test_a_refused_line_harms_no_other_and_shows_in_the_status(tmp_path: Path, server: ApiServer) -> None:
    write(tmp_path, line("bad", messages=[]), line("good"))
    status, results = run(tmp_path, server.url)
    assert status == 1
    bad = next(result for result in results if result["custom_id"] == "bad")
    assert bad["response"]["status_code"] == 400
    assert bad["error"]["code"] == "400"
    assert "messages" in bad["error"]["message"]
    assert next(result for result in results if result["custom_id"] == "good")["error"] is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{nonsense"], "line 1"),
        ([line("a"), line("a")], "custom_id 'a' stands in line 1 too"),
        ([line("a", stream=True)], "stream can't be true"),
        ([json.dumps({"custom_id": "a", "url": CHAT, "body": {}, "metod": "POST"})], "metod"),
        ([json.dumps({"custom_id": "a", "url": "http://elsewhere/v1", "body": {}})], "url must be one of"),
        ([json.dumps({"custom_id": "a", "url": "/v1/unload_lora_adapter", "body": {}})], "url must be one of"),
        ([""], "holds no requests"),
    ],
)
def test_a_faulty_file_is_refused_before_anything_is_sent(tmp_path: Path, lines: list[str], told: str) -> None:
    write(tmp_path, *lines)
    with moody([]) as (url, asked):
        with pytest.raises(ConfigError, match=told):
            run(tmp_path, url)
        assert asked == []


def test_results_of_before_are_not_lost_by_accident(tmp_path: Path, server: ApiServer) -> None:
    write(tmp_path, line("a"))
    run(tmp_path, server.url)
    before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        run(tmp_path, server.url)
    assert (tmp_path / "out.jsonl").read_bytes() == before
    _, results = run(tmp_path, server.url, "--overwrite")
    assert len(results) == 1
    assert (tmp_path / "out.jsonl").read_bytes() != before


def test_resuming_sends_only_what_has_no_lasting_answer(tmp_path: Path, server: ApiServer) -> None:
    """A first run that was killed while it wrote, and whose server failed on one line."""
    ids = ["refused", "failed", "busy", "done", "torn", "never"]
    write(tmp_path, *(line(custom_id) for custom_id in ids))

    def result(custom_id: str, status: int) -> str:
        return json.dumps({"id": "x", "custom_id": custom_id, "response": {"status_code": status, "body": {}}, "error": None})

    before = [result("refused", 400), result("failed", 503), result("busy", 429), result("done", 200)]
    (tmp_path / "out.jsonl").write_text("\n".join([*before, result("torn", 200)[:40]]))
    status, results = run(tmp_path, server.url, "--resume")
    assert status == 1, "one was refused, if not now"
    assert [entry["custom_id"] for entry in results[:2]] == ["refused", "done"]
    assert sorted(entry["custom_id"] for entry in results[2:]) == ["busy", "failed", "never", "torn"]
    assert len(server.engine.requests) == 4
    assert run(tmp_path, server.url, "--resume") == (1, results), "a third run has nothing left to do, and says the same"


def test_results_of_another_file_answer_nothing(tmp_path: Path, server: ApiServer) -> None:
    write(tmp_path, line("a"))
    run(tmp_path, server.url)
    write(tmp_path, line("b"))
    status, results = run(tmp_path, server.url, "--resume")
    assert status == 0
    assert [result["custom_id"] for result in results] == ["a", "b"]


def test_a_busy_server_is_asked_again_and_a_broken_one_told(tmp_path: Path) -> None:
    write(tmp_path, line("a"))
    with moody([503, 429]) as (url, asked):
        assert run(tmp_path, url)[0] == 0
        assert asked == [CHAT] * 3
    with moody([500] * 3) as (url, asked):
        status, results = run(tmp_path, url, "--overwrite", "--max-attempts", "3")
        assert (status, len(asked), results[0]["response"]["status_code"]) == (1, 3, 500)


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    write(tmp_path, *(line(str(number)) for number in range(50)))
    with moody([]) as (url, _):
        pass
    with pytest.raises(ServerUnreachable, match="--resume"):
        run(tmp_path, url, "--max-attempts", "1")


def test_two_runs_do_not_write_into_one_file(tmp_path: Path, server: ApiServer) -> None:
    write(tmp_path, line("a"))
    with ResultFile(tmp_path / "out.jsonl", resumes=False, overwrites=False), pytest.raises(ConfigError, match="another run"):
        run(tmp_path, server.url)


@pytest.mark.e2e
def test_with_a_server_of_its_own(tmp_path: Path) -> None:
    chats = [line(str(number), messages=[{"role": "user", "content": "hi"}], max_tokens=3) for number in range(3)]
    write(tmp_path, *chats, line("c", "/v1/completions", prompt="one two", max_tokens=3))
    words = ["-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--model", "demo", "--max-model-len", "256"]
    assert main(words, dict(os.environ)) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


def test_a_result_is_one_line_for_every_reader(tmp_path: Path) -> None:
    """Answers come with escapes that parsing has taken away; python's splitlines ends a line at this one."""
    path = tmp_path / "out.jsonl"
    with ResultFile(path, resumes=False, overwrites=False) as results:
        results.write({"custom_id": "a", "response": "x\u2028y"})
    assert [json.loads(text) for text in path.read_text().splitlines()] == [{"custom_id": "a", "response": "x\u2028y"}]
