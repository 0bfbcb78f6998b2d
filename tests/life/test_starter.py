"""The way to the model's files, as the log tells of it."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import pytest

from headway.server.config.server import ServerConfig
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
        assert isinstance(starter.files.exception(timeout=30), ModelSourceError)
        starter.stop()
    assert any("unpacking" in message for message in caplog.messages) is is_told
    assert "unpacking" in starter.phase, "/ping tells it in either case"
