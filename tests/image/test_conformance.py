"""`headway conformance` on the image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from demo_model import demo_files, demo_gguf
from tiny_adapters import make_adapter

from headway.container.conformance.cli import main
from headway.server.errors import ConfigError
from headway.server.loading.model_config import read_config

pytestmark = pytest.mark.docker
# The stream must still be open when SIGTERM comes.
BODY = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "ignore_eos": True}


def test_the_image_passes_what_only_an_image_can_show(image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what a container does not do unless told to: sessions, adapters, a key."""
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(demo_gguf(), model / "model.gguf")
    make_adapter(model / "adapters" / "sql", read_config(demo_files()), targets=("q_proj",), spread=0.05)
    for path in (model, *model.rglob("*")):  # one copy is started as another user
        path.chmod(0o755 if path.is_dir() else 0o644)
    (tmp_path / "body.json").write_text(json.dumps(BODY))
    variables = {"SM_VLLM_ENABLE_LORA": "true", "SM_VLLM_ENABLE_STATEFUL_SESSIONS": "true", "SM_VLLM_API_KEY": "image-key-4f1c"}
    only = "start,image,isolation,stop,secrets,adapters,sessions,security,bidirectional.key"
    words = [image, "--network", "host", "--model-dir", str(model), "--adapter", "/opt/ml/model/adapters/sql"]
    words += [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    words += ["--only", only, "--strict", "--json", "-", "--body", str(tmp_path / "body.json")]
    status = main(words, os.environ)
    results = {check["id"]: (check["result"], check["reason"]) for check in json.loads(capsys.readouterr().out)["checks"]}
    others = {check_id: result for check_id, result in results.items() if result[0] != "pass"}
    if others.get("image.default-port", ("",))[0] == "skipped":  # something else may have 8080
        del others["image.default-port"]
    assert (status, others) == (0, {})
    assert len(results) == 29


def test_an_image_that_is_not_there(image: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["headway-no-such-image:1", "--network", "host"], os.environ)
    assert caught.value.problems[0].startswith("the Docker engine has no image headway-no-such-image:1: pull or build it first")
