"""Our own application passes every check of a server: whole, with a key, with sessions and adapters; and as a model that makes vectors."""

from __future__ import annotations

from pathlib import Path

from api_server import ApiServer
from fake_engine import VECTORS

from headway.container.conformance.check import Needs
from headway.container.conformance.outcome import Verdict
from headway.container.conformance.registry import all_checks
from headway.container.conformance.run import check_url
from headway.container.conformance.subject import Wishes

OF_URL = [check for check in all_checks() if check.needs is Needs.URL]
KEY = "a-key-of-the-test"


def test_with_everything_on_nothing_fails_or_is_left_out(tmp_path: Path) -> None:
    adapter = tmp_path / "sql"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").touch()
    options = {
        "security": {"api_key": [KEY]},
        "sagemaker": {"enable_stateful_sessions": True},
        "lora": {"enable_lora": True, "lora_allowed_prefixes": [str(tmp_path)]},
    }
    with ApiServer(**options) as server:
        results = check_url(OF_URL, server.url, Wishes(KEY, adapter=str(adapter), timeout_s=20), lambda _: None)
    assert {result.check.id: result.reason for result in results if result.verdict is not Verdict.PASSED} == {}
    assert not any(KEY in line for result in results for line in result.evidence)


def test_with_nothing_on_what_is_off_is_not_applicable() -> None:
    with ApiServer() as server:
        results = check_url(OF_URL, server.url, Wishes(timeout_s=20), lambda _: None)
    left_out = {result.check.id for result in results if result.verdict is Verdict.NOT_APPLICABLE}
    assert {check_id.partition(".")[0] for check_id in left_out} == {"adapters", "sessions", "bidirectional", "security"}
    assert all(result.verdict is Verdict.PASSED for result in results if result.check.id not in left_out)


def test_a_model_that_makes_vectors_has_neither_streams_nor_chats() -> None:
    with ApiServer(pooling=VECTORS) as server:
        results = check_url(OF_URL, server.url, Wishes(timeout_s=20), lambda _: None)
    left_out = {result.check.topic for result in results if result.verdict is Verdict.NOT_APPLICABLE}
    assert {"openai", "streams"} < left_out
    assert {result.check.id: result.reason for result in results if result.is_failure or result.verdict is Verdict.SKIPPED} == {}
