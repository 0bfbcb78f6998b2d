from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from headway.container.push.build import build, is_dirty
from headway.server.errors import ConfigError, HeadwayError

ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "container/image").mkdir(parents=True)
    (tmp_path / "container/image/inventory.py").touch()
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "Makefile").write_text("image:\n\t@echo built $(IMAGE) of $(VARIANT) at $(DOCKER_HOST)\n\t@exit $(STATUS)\n")
    return tmp_path


@pytest.mark.parametrize(("variant", "name"), [("cpu", "headway"), ("cuda", "headway:cuda")])
def test_the_image_is_made_by_make_and_stdout_stays_clean(
    checkout: Path, capfd: pytest.CaptureFixture[str], variant: str, name: str
) -> None:
    build(checkout, variant, {**ENVIRON, "DOCKER_HOST": "unix:///x"})
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"built {name} of {variant} at unix:///x\n")


def test_a_build_that_fails_is_one_sentence(checkout: Path) -> None:
    with pytest.raises(HeadwayError, match="ended with status 2; its last lines say why"):
        build(checkout, "cpu", {**ENVIRON, "STATUS": "3"})


def test_there_must_be_a_checkout_and_make(tmp_path: Path, checkout: Path) -> None:
    with pytest.raises(ConfigError, match="is no checkout of Headway"):
        build(tmp_path / "container", "cpu", ENVIRON)
    with pytest.raises(HeadwayError, match="no `make`"):
        build(checkout, "cpu", {"PATH": str(tmp_path)})


def test_code_that_is_no_commits_is_known(checkout: Path, tmp_path: Path) -> None:
    assert not is_dirty(checkout, ENVIRON)  # no repository
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=checkout, env=ENVIRON, check=True)
    assert not is_dirty(checkout, ENVIRON)
    (checkout / "new.py").touch()
    assert is_dirty(checkout, ENVIRON)
    assert not is_dirty(checkout, {"PATH": str(tmp_path)})
