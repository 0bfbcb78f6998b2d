"""`headway conformance` on the real server, started as the image's entrypoint starts it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from api_server import TEMPLATE
from tiny_served import make_served_model

from headway.container.conformance.cli import main

pytestmark = pytest.mark.e2e
# A random model ends when it likes, and the stream must still be open when SIGTERM comes.
BODY = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "ignore_eos": True}


def test_ours_passes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    (tmp_path / "body.json").write_text(json.dumps(BODY))
    variables = {
        "SM_VLLM_MODEL": make_served_model(tmp_path / "model"),
        "SM_VLLM_CHAT_TEMPLATE": str(tmp_path / "template.jinja"),
        "SM_VLLM_HOST": "127.0.0.1",
        "SM_VLLM_DTYPE": "float32",
        "SM_VLLM_ENABLE_LORA": "true",
        "SM_VLLM_ENABLE_STATEFUL_SESSIONS": "true",
    }
    words = ["--command", f"{sys.executable} -m headway.entrypoint serve", "--strict", "--json", "-"]
    words += ["--body", str(tmp_path / "body.json")]
    words += [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    status = main(words, {**os.environ, "OMP_NUM_THREADS": "2"})
    results = {check["id"]: (check["result"], check["reason"]) for check in json.loads(capsys.readouterr().out)["checks"]}
    assert status == 0, {check_id: result for check_id, result in results.items() if result[0] == "fail"}
    # Another server of this machine may have 8080.
    skipped = {check_id for check_id, (result, _) in results.items() if result == "skipped"} - {"image.default-port"}
    assert skipped == {"adapters.life"}
    left_out = {check_id.partition(".")[0] for check_id, (result, _) in results.items() if result == "not applicable"}
    assert left_out == {"bidirectional", "security", "image", "isolation"}
