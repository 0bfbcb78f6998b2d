"""The way to the model's files, as the log tells of it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from headway.server.config.server import ServerConfig
from headway.server.engine.data_parallel.processes import EngineProcesses
from headway.server.errors import ModelSourceError
from headway.server.phases import PhaseLog
from headway.server.starter import EngineStarter


@pytest.mark.parametrize("is_told", [True, False])
def test_progress_is_logged_unless_it_is_switched_off(is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("README.md")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    config = ServerConfig.model_validate({"model": {"model": str(archive)}, "start": {"use_tqdm_on_load": is_told}})
    starter = EngineStarter(config, tmp_path, tmp_path / "cache", PhaseLog("getting the model", 0.0))
    with caplog.at_level(logging.INFO):
        starter.begin()
        assert isinstance(starter.files.exception(timeout=60), ModelSourceError)
        starter.stop()
    assert any("unpacking" in message for message in caplog.messages) is is_told
    assert "unpacking" in starter.phase, "/ping tells it in either case"


def test_an_architecture_that_is_not_supported_is_told_before_any_engine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those take torch, and seconds, to find the same."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Gemma3nForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(EngineProcesses, "start", lambda *args: None)
    config = ServerConfig.model_validate({"model": {"model": str(tmp_path)}})
    starter = EngineStarter(config, tmp_path, tmp_path / "cache", PhaseLog("getting the model", 0.0))
    starter.begin()
    problem = starter.files.exception(timeout=60)
    starter.stop()
    assert isinstance(problem, ModelSourceError)
    assert "is Gemma3nForCausalLM, which is not supported" in str(problem)
    assert "; these are: LlamaForCausalLM, " in str(problem)
    assert "The nearest by name is Gemma3ForCausalLM; a model of just that shape is served with --hf-overrides" in str(problem)


def test_a_draft_model_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    asked = {"speculative_config": {"model": str(tmp_path / "small"), "num_speculative_tokens": 2}}
    config = ServerConfig.model_validate({"model": {"model": str(tmp_path)}, "speculative": asked})
    starter = EngineStarter(config, tmp_path, tmp_path / "cache", PhaseLog("getting the model", 0.0))
    starter.begin()
    problem = starter.files.exception(timeout=60)
    starter.stop()
    assert isinstance(problem, ModelSourceError)
    assert str(problem).startswith("The draft model of --speculative-config: ")
    assert "/small" in str(problem)


def test_what_is_asked_of_a_model_before_it_is_loaded_takes_no_torch() -> None:
    code = "import headway.server.starter, headway.server.models.gemma3, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
