"""`headway conformance` on the image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from demo_model import demo_gguf

from headway.container.conformance.cli import main
from headway.server.errors import ConfigError

pytestmark = pytest.mark.docker
# The stream must still be open when SIGTERM comes.
BODY = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "ignore_eos": True}


def test_the_image_passes_what_only_an_image_can_show(image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(demo_gguf(), model / "model.gguf")
    model.chmod(0o755)  # one copy is started as another user
    (model / "model.gguf").chmod(0o644)
    (tmp_path / "body.json").write_text(json.dumps(BODY))
    only = "start.serve,ping,image,isolation,stop,secrets,start.bad-option-exits"
    words = [image, "--network", "host", "--model-dir", str(model), "-e", "SM_VLLM_DTYPE=float32"]
    words += ["--only", only, "--strict", "--json", "-", "--body", str(tmp_path / "body.json")]
    status = main(words, os.environ)
    results = {check["id"]: (check["result"], check["reason"]) for check in json.loads(capsys.readouterr().out)["checks"]}
    assert status == 0, results
    assert {check_id for check_id, (result, _) in results.items() if result != "pass"} <= {"image.default-port"}  # 8080 may be taken


def test_an_image_that_is_not_there(image: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["headway-no-such-image:1", "--network", "host"], os.environ)
    assert caught.value.problems[0].startswith("the Docker engine has no image headway-no-such-image:1: pull or build it first")
