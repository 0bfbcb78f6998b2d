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


def test_the_image_passes_what_only_an_image_can_show(image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(demo_gguf(), tmp_path / "model.gguf")
    only = "start.serve,ping,image,isolation,stop,secrets,start.bad-option-exits"
    words = [image, "--network", "host", "--model-dir", str(tmp_path), "-e", "SM_VLLM_DTYPE=float32"]
    words += ["--only", only, "--strict", "--json", "-"]
    status = main(words, os.environ)
    results = {check["id"]: (check["result"], check["reason"]) for check in json.loads(capsys.readouterr().out)["checks"]}
    assert status == 0, results
    assert {check_id for check_id, (result, _) in results.items() if result != "pass"} <= {"image.default-port"}  # 8080 may be taken


def test_an_image_that_is_not_there(image: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["headway-no-such-image:1", "--network", "host"], os.environ)
    assert caught.value.problems[0].startswith("the Docker engine has no image headway-no-such-image:1: pull or build it first")
